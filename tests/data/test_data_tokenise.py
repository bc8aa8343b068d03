"""Tokenizers: trained here, saved, opened again, by this project and by transformers."""

import pytest
from transformers import AutoTokenizer

from vlpretrain.data.tokenise import load_tokeniser, train_wordpiece
from vlpretrain.errors import UserError

CAPTIONS = [
    "A man riding a skateboard down a street.",
    "Two men ride skateboards; streets are wet!",
    "A caf\u00e9 on the street, \u732b and \U0001f600",
] * 5


@pytest.fixture(scope="module")
def tokeniser():
    return train_wordpiece(CAPTIONS, 120)


def test_the_same_captions_give_the_same_vocabulary_id_by_id(tokeniser):
    # The library's hash maps are seeded anew in every training, so one process shows it.
    for _ in range(5):
        again = train_wordpiece(CAPTIONS, 120)
        assert again.tokenizer.get_vocab() == tokeniser.tokenizer.get_vocab()


def test_special_tokens_lead_and_the_size_is_held(tokeniser):
    vocabulary = tokeniser.tokenizer.get_vocab()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [vocabulary[token] for token in special] == [0, 1, 2, 3, 4]
    assert tokeniser.vocab_size == len(vocabulary) <= 120
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert tokeniser.ordinary_ids.tolist() == list(range(5, len(vocabulary)))


def test_pieces_are_words_starts_and_insides(tokeniser):
    vocabulary = tokeniser.tokenizer.get_vocab()
    assert {"street", "a", "##s", "##k"} <= set(vocabulary)
    assert "man" in vocabulary
    assert not any(character > "\U00080000" for piece in vocabulary for character in piece)


def test_every_training_caption_is_written_without_unknown_words(tokeniser):
    for text in tokeniser.encode(CAPTIONS):
        assert 1 not in text.ids
        assert text.ids[0] == tokeniser.cls_id
        assert text.ids[-1] == 3


def test_pieces_of_a_word_share_its_number_and_special_or_unknown_ones_have_none(tokeniser):
    (text,) = tokeniser.encode(["streetside \u00df\u16a0 man"])
    words = [word for word in text.word_ids if word is not None]
    assert text.word_ids[0] is text.word_ids[-1] is None
    assert len(set(words)) == 2
    assert len(words) > 2
    assert 1 in text.ids
    assert text.word_ids[text.ids.index(1)] is None


def test_truncation_keeps_first_and_last_special_token(tokeniser):
    whole, cut = tokeniser.encode(CAPTIONS[:1])[0], tokeniser.encode(CAPTIONS[:1], 5)[0]
    assert cut.ids == [*whole.ids[:4], 3]
    assert tokeniser.encode(CAPTIONS[:1])[0] == whole


def test_ids_read_back_as_words(tokeniser):
    (text,) = tokeniser.encode(["Two men ride skateboards"])
    assert tokeniser.decode(text.ids) == "two men ride skateboards"


def test_a_saved_tokeniser_opens_here_and_in_transformers(tokeniser, tmp_path):
    tokeniser.save(tmp_path)
    opened = load_tokeniser(tmp_path)
    assert opened.encode(CAPTIONS, 9) == tokeniser.encode(CAPTIONS, 9)
    assert (opened.pad_id, opened.cls_id, opened.mask_id) == (0, 2, 4)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(CAPTIONS)["input_ids"] == [text.ids for text in tokeniser.encode(CAPTIONS)]
    assert theirs.mask_token == "[MASK]"
    assert (tmp_path / "special_tokens_map.json").is_file()


def test_open_clips_tokeniser_agrees_with_open_clip_and_has_no_mask(tmp_path):
    clip = load_tokeniser("open_clip:ViT-B-32")
    theirs_BT = clip.tokenizer(["a skateboarding man", ""])
    for text, theirs_T in zip(clip.encode(["a skateboarding man", ""]), theirs_BT, strict=True):
        assert theirs_T[: len(text.ids)].tolist() == text.ids
        assert not theirs_T[len(text.ids) :].any()
    assert clip.mask_id is None
    assert len(clip.encode(["cat " * 200])[0].ids) == 77
    assert clip.decode(clip.encode(["A cat"])[0].ids) == "a cat"
    clip.save(tmp_path / "tokenizer")
    assert load_tokeniser(tmp_path / "tokenizer").encode(["a cat"]) == clip.encode(["a cat"])


@pytest.mark.parametrize(
    ("name", "advice"),
    [("/no/such/folder", "data.tokenizer"), ("open_clip:ViT-B-33", "open_clip:ViT-B-32")],
)
def test_an_unknown_name_says_what_works(name, advice):
    with pytest.raises(UserError, match=advice):
        load_tokeniser(name)


def test_no_captions_no_tokeniser():
    with pytest.raises(UserError, match="no caption"):
        train_wordpiece(["", "  "], 100)
