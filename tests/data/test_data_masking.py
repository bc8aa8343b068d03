"""How much is hidden, where, and by what."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpretrain.data.keyed import generator
from vlpretrain.data.masking import hide_blocks, hide_words, num_hidden

MASK_ID, ORDINARY = 4, np.arange(5, 100)
# [CLS] a ##b c d ##e ##f g [SEP]
IDS = [2, 10, 11, 12, 13, 14, 15, 16, 3]
WORDS = [None, 0, 0, 1, 2, 2, 2, 3, None]


def random(key=""):
    return generator(0, 0, str(key), "test")


@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 5))
def test_exactly_the_share_of_blocks_is_hidden(blocks, ratio, key):
    hidden_G = hide_blocks(blocks, ratio, random(key))
    assert hidden_G.shape == (blocks,)
    assert hidden_G.sum() == num_hidden(ratio, blocks)
    assert abs(num_hidden(ratio, blocks) - math.ceil(ratio * blocks)) <= 1


def test_the_share_is_rounded_up_without_float_dust():
    assert [num_hidden(0.6, 49), num_hidden(0.7, 10), num_hidden(0, 9), num_hidden(1, 9)] == [
        30, 7, 0, 9,
    ]  # fmt: skip


def test_every_block_is_hidden_equally_often():
    share_G = np.mean([hide_blocks(16, 0.5, random(key)) for key in range(2000)], axis=0)
    assert np.abs(share_G - 0.5).max() < 0.05


@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 1.0])
def test_whole_words_are_hidden_and_special_tokens_never(ratio):
    for key in range(50):
        hidden = hide_words(IDS, WORDS, ratio, MASK_ID, ORDINARY, random(key))
        words = {WORDS[column] for column in hidden.column_M}
        assert None not in words
        assert len(words) == max(1, round(ratio * 4))
        assert len(hidden.column_M) == sum(WORDS.count(word) for word in words)
        assert [IDS[column] for column in hidden.column_M] == hidden.target_M.tolist()
        untouched = np.setdiff1d(np.arange(len(IDS)), hidden.column_M)
        assert hidden.ids_T[untouched].tolist() == [IDS[column] for column in untouched]


def test_a_text_without_words_hides_nothing():
    hidden = hide_words([2, 3], [None, None], 0.5, MASK_ID, ORDINARY, random())
    assert hidden.ids_T.tolist() == [2, 3]
    assert not len(hidden.column_M)
    assert not len(hidden.target_M)


def test_of_the_hidden_80_are_masked_10_random_10_kept():
    ids, words = [10] * 20_000, list(range(20_000))
    hidden = hide_words(ids, words, 1.0, MASK_ID, np.arange(50, 60), random())
    shares = [
        np.mean(hidden.ids_T == MASK_ID), np.mean(hidden.ids_T >= 50), np.mean(hidden.ids_T == 10)
    ]  # fmt: skip
    assert np.allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
