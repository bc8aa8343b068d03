"""Copies of pictures and texts are found, what only looks alike is not, and it is kept safely."""

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from vlpretrain.config.schema import DataConfig
from vlpretrain.data import fingerprint as fingerprints
from vlpretrain.data.fingerprint import (
    FINGERPRINTS,
    Fingerprint,
    FingerprintSet,
    find_overlap,
    fingerprint,
    join_fingerprints,
    load_fingerprints,
    normalise_text,
    pack_fingerprints,
)
from vlpretrain.data.near_pictures import (
    MOST_BITS,
    MOST_LEVELS,
    MarkedPictures,
    find_nearest,
)
from vlpretrain.data.picture_mark import THUMBNAIL_SIZE, PictureMark, mark_picture
from vlpretrain.data.shards import Source, open_source
from vlpretrain.data.sidecar import read_sidecar, sidecar_places
from vlpretrain.types import Sample


def photo(seed: int) -> Image.Image:
    """Blurred noise: like a photo it has all frequencies, the low ones strongest."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    picture = coarse.resize((320, 240), Image.Resampling.BICUBIC)
    noise = Image.fromarray(random.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    return Image.blend(picture, noise.filter(ImageFilter.GaussianBlur(2)), 0.2)


def encode(picture: Image.Image, form: str = "PNG", **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **how)
    return buffer.getvalue()


def sample(key: str, *pictures: bytes, captions: tuple[str, ...] = (), **metadata) -> Sample:
    first = pictures[0] if pictures else None
    return Sample(key, "s.tar", first, captions, metadata, images=pictures)


def packed(*samples: Sample) -> FingerprintSet:
    return pack_fingerprints(map(fingerprint, samples), [item.key for item in samples])


def same(one: bytes, other: bytes) -> bool:
    overlap = find_overlap(packed(sample("a", one)), packed(sample("b", other)))
    return bool(overlap.pictures)


def turned(picture: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    return encode(picture.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 95": lambda picture: encode(picture, "JPEG", quality=95),
    "JPEG 20": lambda picture: encode(picture, "JPEG", quality=20),
    "WebP": lambda picture: encode(picture, "WEBP", quality=80),
    "half": lambda picture: encode(picture.resize((160, 120)), "JPEG", quality=90),
    "square": lambda picture: encode(picture.resize((224, 224)), "JPEG", quality=90),
    "turned by EXIF": turned,
    "transparent": lambda picture: encode(picture.convert("RGBA")),
}


@pytest.mark.parametrize("kind", list(COPIES))
def test_copies_of_a_picture_are_found(kind):
    for seed in range(5):
        picture = photo(seed)
        assert same(encode(picture), COPIES[kind](picture))


def test_other_pictures_are_not_the_same():
    pictures = [encode(photo(seed)) for seed in range(20)]
    a = packed(*(sample(str(n), data) for n, data in enumerate(pictures[:10])))
    b = packed(*(sample(str(n), data) for n, data in enumerate(pictures[10:])))
    assert find_overlap(a, b).pictures == ()
    mirrored = photo(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not same(pictures[0], encode(mirrored))


def drawing(shape: str, colour: str, at: int = 20, size: int = 64) -> Image.Image:
    picture = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(picture)
    box = (at, 20, at + 20, 40)
    pen.ellipse(box, colour) if shape == "circle" else pen.rectangle(box, colour)
    return picture


def test_drawings_of_equal_hash_are_told_apart_by_their_colours():
    blue, green = encode(drawing("circle", "#0000f0")), encode(drawing("circle", "#00381f"))
    assert (mark_picture(blue).bits ^ mark_picture(green).bits).bit_count() <= MOST_BITS
    assert not same(blue, green)
    assert not same(blue, encode(drawing("rectangle", "#0000f0")))
    assert not same(blue, encode(drawing("circle", "#0000f0", at=30)))
    assert same(blue, encode(drawing("circle", "#0000f0"), "WEBP", lossless=True))


def flat(colour: str, dot: tuple[int, int] | None = None) -> Image.Image:
    picture = Image.new("RGB", (64, 64), colour)
    if dot:
        picture.putpixel(dot, (1, 2, 3))
    return picture


def test_flat_pictures_are_the_same_only_when_every_pixel_is():
    plain = encode(flat("#808080"))
    assert mark_picture(plain).pixels != 0
    assert same(plain, encode(flat("#808080"), "BMP"))
    assert not same(plain, encode(flat("#818181")))
    assert not same(encode(flat("#808080", (3, 3))), encode(flat("#808080", (40, 9))))
    assert not same(plain, encode(flat("#808080").resize((32, 32))))
    assert mark_picture(encode(photo(0))).pixels == 0


def marks(random: np.random.Generator, count: int) -> MarkedPictures:
    """Hashes of few values, so that many are near each other; some of them unsure."""
    some = random.integers(0, 2**64, 12, dtype=np.uint64)
    bits_L = some[random.integers(0, len(some), count)]
    for _ in range(6):
        turned_L = random.integers(0, 64, count).astype(np.uint64)
        bits_L = np.where(random.random(count) < 0.5, bits_L ^ (np.uint64(1) << turned_L), bits_L)
    levels = random.integers(90, 100, (count, 1)) + random.integers(0, 12, (count, THUMBNAIL_SIZE))
    pixels_L = np.where(random.random(count) < 0.2, random.integers(1, 9, count), 0)
    return MarkedPictures(bits_L, levels.astype(np.uint8), pixels_L)


def slow_nearest(a: MarkedPictures, b: MarkedPictures, row: int) -> tuple[int, int]:
    """The nearest row of A and its distance by looking at every one; (-1, 0) for none."""
    best = (-1, 0)
    for other in range(len(a)):
        unsure = bool(b.pixels_L[row]), bool(a.pixels_L[other])
        distance = int(a.bits_L[other] ^ b.bits_L[row]).bit_count()
        apart = np.abs(a.thumbnail_LK[other].astype(int) - b.thumbnail_LK[row]).max()
        near = unsure == (False, False) and distance <= MOST_BITS and apart <= MOST_LEVELS
        if unsure == (True, True):
            near, distance = a.pixels_L[other] == b.pixels_L[row], 0
        if near and (best[0] < 0 or distance < best[1]):
            best = other, distance
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_what_looking_at_every_pair_finds(seed, monkeypatch):
    random = np.random.default_rng(seed)
    a, b = marks(random, 150), marks(random, 90)
    wanted = [slow_nearest(a, b, row) for row in range(len(b))]
    found = find_nearest(a, b)
    assert list(zip(found.row_B.tolist(), found.distance_B.tolist(), strict=True)) == wanted
    assert 10 < sum(row >= 0 for row, _ in wanted) < 90
    monkeypatch.setattr("vlpretrain.data.near_pictures._CHUNK", 7)
    assert find_nearest(a, b).row_B.tolist() == found.row_B.tolist()


@pytest.mark.parametrize(("of_a", "of_b"), [(0, 5), (5, 0), (0, 0)])
def test_an_empty_side_overlaps_with_nothing(of_a, of_b):
    random = np.random.default_rng(0)
    found = find_nearest(marks(random, of_a), marks(random, of_b))
    assert found.row_B.tolist() == [-1] * of_b
    none = find_overlap(packed(), packed(sample("b", captions=("x",))))
    assert (none.pictures, none.captions, none.questions) == ((), (), ())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A man, riding  a Horse.", "a man riding a horse"),
        ("Cafe\u0301 au lait!", "CAFÉ AU LAIT"),
        ("½ ﬁsh", "1⁄2 fish"),
        ("Straße", "STRASSE"),
        ("它是红色的。", "它是红色的"),
    ],
)
def test_texts_that_say_the_same_are_the_same(one, other):
    assert normalise_text(one) == normalise_text(other)


def test_texts_without_letters_stay_apart():
    assert normalise_text("😀") != normalise_text("!!!")
    assert normalise_text("a b") != normalise_text("ab")


def test_overlap_counts_and_names_pictures_captions_and_questions():
    first, second, third = (encode(photo(seed)) for seed in range(3))
    asked = [{"question": "What is it?"}, {"question": "how many"}]
    a = packed(
        sample("a0", first, captions=("A red ball.",), questions=asked),
        sample("a1", second, captions=("a dog",)),
    )
    b = packed(
        sample("b0", encode(photo(0), "JPEG", quality=60), questions=[{"question": "what is it"}]),
        sample("b1", third, captions=("a red ball", "two"), questions=asked),
        sample("b2", captions=("nothing",)),
    )
    overlap = find_overlap(a, b)
    assert [(match.a, match.b) for match in overlap.pictures] == [("a0", "b0")]
    assert [(match.a, match.b) for match in overlap.captions] == [("a0", "b1")]
    # b1 is asked the same, but of another picture.
    assert [(match.a, match.b) for match in overlap.questions] == [("a0", "b0")]
    assert (overlap.num_pictures, overlap.num_captions, overlap.num_questions) == (2, 3, 3)
    record = overlap.record(["train"])
    assert {name: record[name] for name in ("pictures", "captions", "of")} == {
        "pictures": 1,
        "captions": 1,
        "of": 3,
    }
    assert "too good" in record["note"]
    assert json.loads(json.dumps(record)) == record
    assert "nothing" in find_overlap(b, packed(sample("c", second))).record([])["note"]


def test_either_picture_of_a_pair_counts_and_broken_ones_are_passed_over():
    first, second = encode(photo(1)), encode(photo(2))
    pair = fingerprint(sample("pair", first, second))
    assert len(pair.pictures) == 2
    overlap = find_overlap(packed(sample("a", second)), packed(sample("pair", first, second)))
    assert [match.b for match in overlap.pictures] == ["pair"]
    broken = fingerprint(sample("x", b"no picture", first, captions=("x",)))
    assert (len(broken.pictures), len(broken.captions)) == (1, 1)


def test_joined_sets_name_the_same_samples_as_one():
    pictures = [encode(photo(seed)) for seed in range(6)]
    samples = [sample(f"k{n}", data, captions=(f"c{n}",)) for n, data in enumerate(pictures)]
    joined = join_fingerprints([packed(*samples[:1]), packed(), packed(*samples[1:])])
    whole = packed(*samples)
    assert find_overlap(joined, whole) == find_overlap(whole, whole)
    assert [match.a for match in find_overlap(joined, whole).captions] == [
        f"k{n}" for n in range(6)
    ]


def write_shard(path: Path, seeds: range) -> None:
    with tarfile.open(path, "w") as tar:
        for seed in seeds:
            record = json.dumps({"captions": [f"caption {seed}"]}).encode()
            for extension, data in (("png", encode(photo(seed))), ("json", record)):
                info = tarfile.TarInfo(f"{seed:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "0.tar", range(3))
    write_shard(tmp_path / "data" / "1.tar", range(3, 5))
    return tmp_path / "data"


def opened(folder: Path) -> Source:
    return open_source(str(folder), DataConfig())


def must_not_run(*_: object) -> Fingerprint:
    raise AssertionError("made again")


def test_fingerprints_are_kept_beside_the_shards(folder, monkeypatch):
    made = load_fingerprints(opened(folder))
    assert [made.samples[row] for row in range(5)] == [
        f"{folder}/{shard}.tar/{seed:03d}"
        for shard, seed in ((0, 0), (0, 1), (0, 2), (1, 3), (1, 4))
    ]
    assert (
        sorted(path.suffix for path in folder.iterdir())
        == [".fpr"] * 2 + [".idx"] * 2 + [".tar"] * 2
    )
    monkeypatch.setattr(fingerprints, "fingerprint", must_not_run)
    kept = load_fingerprints(opened(folder))
    assert find_overlap(kept, made) == find_overlap(made, made)
    assert len(find_overlap(kept, made).pictures) == 5


def test_a_changed_shard_is_fingerprinted_anew(folder):
    load_fingerprints(opened(folder))
    write_shard(folder / "1.tar", range(7, 9))
    status = (folder / "1.tar").stat()
    os.utime(folder / "1.tar", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    found = load_fingerprints(opened(folder))
    wanted = packed(sample("x", encode(photo(8)), captions=("caption 8",)))
    assert len(find_overlap(found, wanted).pictures) == 1
    assert len(find_overlap(found, wanted).captions) == 1


@pytest.mark.parametrize("damage", ["cut", "byte", "empty", "foreign"])
def test_a_damaged_file_is_made_anew(folder, damage):
    made = load_fingerprints(opened(folder))
    place = folder / "0.tar.fpr"
    content = bytearray(place.read_bytes())
    if damage == "byte":
        content[len(content) // 2] ^= 1
    changed = {"cut": content[:-9], "byte": content, "empty": b"", "foreign": b"PK\3\4" * 99}
    place.write_bytes(changed[damage])
    assert read_sidecar(place, FINGERPRINTS) is None
    again = load_fingerprints(opened(folder))
    assert find_overlap(again, made) == find_overlap(made, made)
    assert read_sidecar(place, FINGERPRINTS) is not None


def test_where_the_folder_cannot_be_written_the_cache_keeps_them(folder, tmp_path, monkeypatch):
    for shard in range(2):
        # A folder of the file's name: unlike permissions, it also stops root.
        (folder / f"{shard}.tar.fpr").mkdir()
    cache = str(tmp_path / "cache")
    load_fingerprints(opened(folder), cache)
    places = [sidecar_places(str(folder / f"{n}.tar"), FINGERPRINTS, cache)[1] for n in range(2)]
    assert all(place.is_file() for place in places)
    monkeypatch.setattr(fingerprints, "fingerprint", must_not_run)
    assert len(load_fingerprints(opened(folder), cache)) == 5


def test_marks_are_plain_numbers():
    mark = mark_picture(encode(photo(3)))
    assert isinstance(mark, PictureMark)
    assert 0 <= mark.bits < 2**64
    assert mark.bits.bit_count() == 32
    assert mark.thumbnail_K.shape == (THUMBNAIL_SIZE,)
