"""Which member is the picture, what the texts say, and what is refused with a reason."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpretrain.data.sample import MAX_CAPTION_CHARACTERS, SampleError, parse_sample
from vlpretrain.types import RawSample


def parse(**parts):
    return parse_sample(RawSample("k", "s.tar", parts))


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "JPG", "Png", "000.jpg"])
def test_the_picture_is_found_by_its_extension(extension):
    assert parse_sample(RawSample("k", "s", {extension: b"x", "txt": b"a"})).image == b"x"


def test_a_plain_extension_goes_before_a_dotted_one():
    assert parse_sample(RawSample("k", "s", {"000.jpg": b"x", "png": b"y"})).image == b"y"


def test_other_members_are_no_picture():
    assert parse_sample(RawSample("k", "s", {"cls": b"1", "mask.npy": b""})).image is None


def test_a_picture_without_bytes_is_still_a_picture_for_the_decoder_to_refuse():
    assert parse(jpg=b"").image == b""


def test_captions_of_text_and_json_are_joined_once_each():
    record = {"captions": ["a cat", "a dog", " "], "image_id": 7, "questions": []}
    sample = parse(txt=b"a cat\n", json=json.dumps(record).encode())
    assert sample.captions == ("a cat", "a dog")
    assert sample.metadata == record


def test_img2datasets_caption_is_read():
    assert parse(json=b'{"caption": "a cat", "url": "x"}').captions == ("a cat",)
    assert parse(json=b'{"caption": null, "url": "x"}').captions == ()


@pytest.mark.parametrize("blank", [b"", b"  \n\t", "\ufeff".encode()])
def test_a_blank_caption_is_no_caption(blank):
    assert parse(txt=blank).captions == ()


def test_a_byte_order_mark_is_not_part_of_the_caption():
    assert parse(txt="\ufeffa cat".encode()).captions == ("a cat",)


def test_a_megabyte_of_caption_is_cut():
    (caption,) = parse(txt=b"cat " * 250_000).captions
    assert len(caption) == MAX_CAPTION_CHARACTERS


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"txt": b"caf\xe9"}, r"\.txt is not UTF-8: byte 3"),
        ({"json": b'{"caption": "caf\xe9"}'}, r"\.json is not UTF-8"),
        ({"json": b"{"}, r"\.json is not JSON"),
        ({"json": b"[" * 100_000}, r"\.json is not JSON"),
        ({"json": b"[1]"}, "a list, not an object"),
        ({"json": b'{"captions": "a cat"}'}, "a str, not a list"),
        ({"json": b'{"captions": [3]}'}, "caption 3 is not a text"),
    ],
)
def test_what_can_not_be_read_is_a_reason_not_a_crash(parts, reason):
    with pytest.raises(SampleError, match=reason):
        parse(**parts)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_give_a_sample_or_a_reason(text, record):
    try:
        sample = parse(txt=text, json=record)
    except SampleError:
        return
    assert all(caption.strip() for caption in sample.captions)
