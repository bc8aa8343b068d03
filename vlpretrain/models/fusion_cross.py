"""Fusion by cross-attention: words look at the picture.

The picture's keys and values are projected once a picture and layer, whatever number of texts
meets it. Shapes: as in layout.py, and N image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from vlpretrain.models.layers import Attention, FeedForward
from vlpretrain.models.layout import PairLayout, Slots


@dataclass(frozen=True, slots=True)
class Stage:
    """Which rows enter a layer, which of them go on, and how they are grouped."""

    keys: Slots  # entering rows, by group of self-attention
    key_valid_GT: Tensor
    ask_index: Tensor | None  # which entering rows ask; None: all
    asking: Slots  # the asking rows, by the same groups
    copy_index: Tensor | None  # which asking rows go on, some more than once; None: all, once
    going_on: Slots  # the rows that go on, by picture
    image_row_G: Tensor | None  # the picture of each of those groups; None: in order


def plan(layout: PairLayout, depth: int) -> list[Stage]:
    """The stages of `depth` layers.

    The first self-attention depends on the text alone: it runs once a distinct text and is copied
    to the pairs. The last layer works for the positions that are read.
    """
    stages = [_pair_stage(layout, last=index == depth - 1) for index in range(depth)]
    return [_text_stage(layout, last=depth == 1), *stages[1:]]


def _text_stage(layout: PairLayout, last: bool) -> Stage:
    copy_S = layout.text_index_S
    return Stage(
        keys=layout.text,
        key_valid_GT=layout.text_valid_RT,
        ask_index=None,
        asking=layout.text,
        copy_index=copy_S[layout.read_row_K] if last else copy_S,
        going_on=(layout.reads if last else layout.rows).image,
        image_row_G=layout.image_row_G,
    )


def _pair_stage(layout: PairLayout, last: bool) -> Stage:
    going_on = layout.reads if last else layout.rows
    return Stage(
        keys=layout.rows.pair,
        key_valid_GT=layout.pair_valid_PT,
        ask_index=layout.read_row_K if last else None,
        asking=going_on.pair,
        copy_index=None,
        going_on=going_on.image,
        image_row_G=layout.image_row_G,
    )


class CrossLayer(nn.Module):
    """Pre-norm self-attention over the words, cross-attention to the picture, feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.word_norm = nn.LayerNorm(width)
        self.words = Attention(width, heads)
        self.picture_norm = nn.LayerNorm(width)
        self.picture = Attention(width, heads)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = FeedForward(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, row_SD: Tensor, image_RND: Tensor, stage: Stage) -> Tensor:
        """The rows that go on. `image_RND` is already normalised."""
        row_SD = self._read_words(row_SD, stage)
        key_value_GNE = _pick(self.picture.key_value(image_RND), stage.image_row_G)
        read_SD = self.picture(self.picture_norm(row_SD), stage.going_on, key_value_GNE)
        row_SD = row_SD + self.dropout(read_SD)
        return row_SD + self.dropout(self.feed(self.feed_norm(row_SD)))

    def _read_words(self, row_SD: Tensor, stage: Stage) -> Tensor:
        normed_SD = self.word_norm(row_SD)
        key_value_GTE = stage.keys.pad(self.words.key_value(normed_SD))
        read_SD = self.words(
            _pick(normed_SD, stage.ask_index), stage.asking, key_value_GTE, stage.key_valid_GT
        )
        row_SD = _pick(row_SD, stage.ask_index) + self.dropout(read_SD)
        return _pick(row_SD, stage.copy_index)


def _pick(rows: Tensor, index: Tensor | None) -> Tensor:
    return rows if index is None else rows.index_select(0, index)
