"""Rows to a Batch: presence, padding, hidden words, counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vlpretrain.data.collate import check_masking, collate, text_id
from vlpretrain.data.keyed import generator
from vlpretrain.data.masking import hide_blocks
from vlpretrain.data.tokenise import load_tokeniser, train_wordpiece
from vlpretrain.data.transforms import Row, SampleSettings, blank_row
from vlpretrain.errors import UserError
from vlpretrain.types import COUNTS

SETTINGS = SampleSettings(image_size=32, block=8, block_ratio=0.6, word_ratio=0.4)
CAPTION = "a small dog and a big cat playing"


@pytest.fixture(scope="module")
def tokeniser():
    return train_wordpiece([CAPTION, "dogs and cats"] * 3, 80)


def row(name, image=True, caption=CAPTION):
    pixels_CHW = torch.full((3, 32, 32), 7, dtype=torch.uint8) if image else None
    hidden_G = hide_blocks(16, 0.6, generator(0, 0, name, "blocks"))
    return Row(name, name, 0, pixels_CHW, caption, hidden_G, 5 if image else -1)


@pytest.fixture
def rows():
    return [
        row("both"),
        row("text", image=False),
        row("image", caption=None),
        row("s", caption="a"),
    ]


def counts(batch):
    return dict(zip(COUNTS, batch.counts.tolist(), strict=True))


def test_absent_parts_are_blank_and_flagged(rows, tokeniser):
    batch = collate(rows, tokeniser, SETTINGS)
    assert batch.image_present_B.tolist() == [True, False, True, True]
    assert batch.text_present_B.tolist() == [True, True, False, True]
    assert not batch.pixels_BCHW[1].any()
    assert (batch.pixels_BCHW[0] == 7).all()
    assert batch.text_BT[2][batch.text_valid_BT[2]].tolist() == [2, 3]  # [CLS] [SEP]
    assert batch.image_id_B.tolist() == [5, -1, 5, 5]
    assert batch.text_id_B[2] == -1
    assert batch.keys == ("both", "text", "image", "s")


def test_counts_are_of_present_parts_alone(rows, tokeniser):
    batch = collate(rows, tokeniser, SETTINGS)
    assert counts(batch) == {
        "images": 3,
        "texts": 3,
        "pairs": 2,
        "hidden_blocks": 3 * 10,
        "hidden_words": len(batch.hidden_word_index_M),
        "questions": 0,
        "labels": 0,
    }
    assert torch.equal(batch.counts, batch.mean_counts)
    assert batch.counts.dtype == torch.float32


def test_texts_are_padded_to_the_longest_of_the_micro_batch(rows, tokeniser):
    batch = collate(rows, tokeniser, SETTINGS)
    lengths = batch.text_valid_BT.sum(1)
    assert batch.text_BT.shape[1] == lengths.max() <= SETTINGS.max_tokens
    assert (batch.text_BT[~batch.text_valid_BT] == tokeniser.pad_id).all()
    assert (batch.masked_text_BT[~batch.text_valid_BT] == tokeniser.pad_id).all()
    assert collate(rows, tokeniser, replace(SETTINGS, max_tokens=4)).text_BT.shape[1] == 4


def test_hidden_words_are_found_by_their_flat_index(rows, tokeniser):
    batch = collate(rows, tokeniser, SETTINGS)
    index_M = batch.hidden_word_index_M
    assert torch.equal(batch.text_BT.flatten()[index_M], batch.hidden_word_target_M)
    differs = (batch.text_BT != batch.masked_text_BT).flatten().nonzero().squeeze(1)
    assert set(differs.tolist()) <= set(index_M.tolist())
    assert {int(index) // batch.text_BT.shape[1] for index in index_M} == {0, 1, 3}
    assert (batch.hidden_word_target_M >= 5).all()


def test_a_rows_hidden_words_do_not_depend_on_its_neighbours(rows, tokeniser):
    together, alone = collate(rows, tokeniser, SETTINGS), collate(rows[:1], tokeniser, SETTINGS)
    length = alone.text_BT.shape[1]
    assert torch.equal(together.masked_text_BT[0, :length], alone.masked_text_BT[0])


def test_without_a_word_ratio_nothing_is_hidden(rows, tokeniser):
    batch = collate(rows, tokeniser, replace(SETTINGS, word_ratio=0.0))
    assert torch.equal(batch.text_BT, batch.masked_text_BT)
    assert not len(batch.hidden_word_index_M)


def test_pieces_can_be_hidden_alone(tokeniser):
    pieces = replace(SETTINGS, whole_words=False, word_ratio=0.5)
    batch = collate([row("a", caption="dogdogs catcats")], tokeniser, pieces)
    pieces_in_text = int((batch.text_BT >= 5).sum())
    assert pieces_in_text > 2
    assert len(batch.hidden_word_index_M) == round(0.5 * pieces_in_text)


def test_a_batch_of_blank_rows_is_whole_and_counts_nothing(tokeniser):
    batch = collate([blank_row(SETTINGS)] * 2, tokeniser, SETTINGS)
    assert len(batch) == 2
    assert not batch.counts.any()
    assert batch.text_valid_BT.all()
    assert np.array_equal(batch.block_hidden_BG.sum(1), [10, 10])


def test_captions_that_read_alike_share_an_id():
    assert text_id("A  cat.") == text_id("a cat") == text_id(" a cat !")
    assert text_id("a cat") != text_id("a dog")
    assert text_id(None) == -1


def test_hiding_words_needs_a_mask_token():
    clip = load_tokeniser("open_clip:ViT-B-32")
    with pytest.raises(UserError, match="no mask token"):
        check_masking(clip, SETTINGS)
    check_masking(clip, replace(SETTINGS, word_ratio=0.0))
