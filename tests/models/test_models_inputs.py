"""Readers: the words of a text, and where their pieces stand among its tokens."""

import open_clip
import pytest

from vlpretrain.data.tokenise import FastTokeniser, train_wordpiece
from vlpretrain.models.inputs import ClipReader, FastReader, TextReader

CAPTIONS = ["a red square on a blue circle", "two dogs on grass"] * 3


@pytest.fixture(scope="module")
def wordpiece() -> FastTokeniser:
    return train_wordpiece(CAPTIONS, 60)


@pytest.fixture(params=["wordpiece", "clip"])
def reader(request, wordpiece) -> TextReader:
    if request.param == "clip":
        return ClipReader(open_clip.get_tokenizer("ViT-B-32"))
    return FastReader(wordpiece.tokenizer, 40)


@pytest.mark.parametrize("text", ["two red dogs", "A Blue-ish square, unbelievably circular!", "x"])
def test_every_token_between_the_special_ones_belongs_to_one_word(reader, text):
    words = reader.words(text)
    positions = [position for word in words for position in word.positions]
    text_1T, _ = reader.read([text])
    assert positions == list(range(1, text_1T.shape[1] - 1))
    assert "".join(word.text for word in words).lower() == text.replace(" ", "").lower()


def test_pieces_of_a_word_stand_together(reader):
    words = reader.words("two squarered")
    assert [word.text for word in words] == ["two", "squarered"]
    assert len(words[1].positions) > 1


def test_a_word_keeps_its_spelling_even_where_it_is_unknown(wordpiece):
    words = FastReader(wordpiece.tokenizer, 40).words("Red 漢 Zürich")
    assert [word.text for word in words] == ["Red", "漢", "Zürich"]
    assert len(words[1].positions) == 1


def test_words_that_are_cut_off_are_left_out(wordpiece):
    words = FastReader(wordpiece.tokenizer, 4).words("two dogs on grass")
    assert [word.text for word in words] == ["two", "dogs"]
    clip = ClipReader(open_clip.get_tokenizer("ViT-B-32"))
    assert clip.words("dogs " * 100)[-1].positions == (75,)


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_text_without_words_has_none(reader, text):
    assert reader.words(text) == []
