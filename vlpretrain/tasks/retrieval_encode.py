"""Every picture and every text through its tower.

Shapes: U pictures or texts of a unit, N image tokens, T text positions, S real tokens, D width,
I pictures, E embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.errors import UserError
from vlpretrain.models.vision import VisionStates
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.objectives.features import pad_tokens
from vlpretrain.padding import pad_ids
from vlpretrain.tasks.retrieval_set import RetrievalSet
from vlpretrain.tasks.units import Units, filled

# Of one call of a tower; part of what makes results reproducible to the bit.
PICTURES, TEXTS = 16, 64
_NAMED_IN_ERROR = 3


@dataclass(frozen=True, slots=True)
class TextTable:
    """The token states of all texts without padding, on the model's device, on every rank.

    At 14 tokens of width 768 and 25,000 texts these are 540 MB in bf16.
    """

    row_SD: Tensor
    first_T: Tensor  # int64 on the CPU: the row of each text's first token
    length_T: Tensor  # int64 on the CPU

    def padded(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """States [n, T, D] of some texts and where they are real tokens [n, T]; elsewhere they are
        those of another text, and mean nothing."""
        position_T = torch.arange(int(self.length_T[texts].max()))
        valid_nT = position_T < self.length_T[texts][:, None]
        index_nT = torch.where(valid_nT, self.first_T[texts][:, None] + position_T, 0)
        device = self.row_SD.device
        return self.row_SD[index_nT.to(device)], valid_nT.to(device)


@dataclass(frozen=True, slots=True)
class EncodedTexts:
    embedding_TE: Tensor  # float32, L2-normalised
    table: TextTable


@dataclass(frozen=True, slots=True)
class EncodedPictures:
    embedding_IE: Tensor  # float32, L2-normalised
    tokens: PictureTokens


class PictureTokens:
    """Token states [U, N, D] of this rank's units of pictures, on the CPU in the model's precision.

    5,000 pictures of 197 tokens of width 768 are 1.5 GB in bf16, 3 GB in fp32, over all ranks. As
    many rounds as fit into `memory` bytes are held at a time; where that is not all, the rest is
    made anew when it is its turn: the tower runs twice for a picture then.
    """

    def __init__(self, model: VLModel, data: RetrievalSet, batch_size: int, memory: int) -> None:
        self.model, self.data, self.batch_size, self.memory = model, data, batch_size, memory
        self.units = Units(len(data.keys), PICTURES)
        self.rounds_at_once = 0
        self._kept: list[Tensor] = []

    def see(self) -> Iterator[VisionStates]:
        """The states of every own unit, once, while their tokens are kept if all fit."""
        for states in see_units(self.model, self.data, self.units.own(), self.batch_size):
            if not self.rounds_at_once:
                one = states.token_BND[0]
                bytes_a_round = PICTURES * one.numel() * one.element_size()
                self.rounds_at_once = max(1, self.memory // bytes_a_round)
            if self.rounds_at_once >= self.units.rounds:
                self._kept.append(states.token_BND.cpu())
            yield states

    def stages(self) -> Iterator[tuple[range, list[Tensor]]]:
        """Rounds, and the tokens of this rank's unit in each."""
        if self._kept:
            yield range(self.units.rounds), self._kept
            return
        for first in range(0, self.units.rounds, self.rounds_at_once):
            rounds = range(first, min(first + self.rounds_at_once, self.units.rounds))
            units = self.units.own()[rounds.start : rounds.stop]
            seen = see_units(self.model, self.data, units, self.batch_size)
            yield rounds, [states.token_BND.cpu() for states in seen]


def encode_pictures(
    model: VLModel, data: RetrievalSet, batch_size: int, memory: int
) -> EncodedPictures:
    """Every picture once.

    Raises:
        UserError: an embedding that is not finite.
    """
    tokens = PictureTokens(model, data, batch_size, memory)
    parts = [filled(_unit_length(model.image_embeddings(s)), PICTURES) for s in tokens.see()]
    embedding_IE = tokens.units.gather(torch.cat(parts))
    _check_finite(embedding_IE, "picture", data.keys)
    return EncodedPictures(embedding_IE, tokens)


def see_units(
    model: VLModel, data: RetrievalSet, units: list[range], batch_size: int
) -> Iterator[VisionStates]:
    """Runs the tower once a unit, on a blank picture for an empty one.

    Args:
        batch_size: pictures that are loaded at once, in whole units.
    """
    device = next(model.vision.parameters()).device
    at_once = max(1, batch_size // PICTURES)
    for first in range(0, len(units), at_once):
        group = units[first : first + at_once]
        rows = [row for unit in group for row in unit]
        pixels = data.load_pixels(rows) if rows else torch.empty(0)
        for unit_pixels in pixels.split([len(unit) for unit in group]):
            if not len(unit_pixels):
                size = model.vision.image_size
                unit_pixels = torch.zeros(1, 3, size, size, dtype=torch.uint8)
            states = model.vision(unit_pixels.to(device))
            yield states


def encode_texts(model: VLModel, data: RetrievalSet) -> EncodedTexts:
    """Every text once, in the order of their lengths, so that a call pads little.

    Raises:
        UserError: an embedding that is not finite.
    """
    length_T = torch.tensor([len(ids) for ids in data.text_ids])
    order_T = length_T.sort(stable=True).indices
    units = Units(len(length_T), TEXTS)
    sorted_length_T = length_T[order_T]
    embeddings, rows = [], []
    for number, unit in enumerate(units.own()):
        texts = order_T[unit.start : unit.stop].tolist()
        ids = [data.text_ids[text] for text in texts] or [(data.pad_id,)]  # a blank one for none
        text_UT, valid_UT = pad_ids(ids, data.pad_id)
        device = next(model.text.parameters()).device
        states = model.text(text_UT.to(device), valid_UT.to(device))
        embeddings.append(filled(_unit_length(model.text_embeddings(states)), TEXTS))
        rows.append(_round_rows(states.token_BTD, units, number, sorted_length_T))
    embedding_TE = units.gather(torch.cat(embeddings))[order_T.argsort().to(rows[0].device)]
    _check_finite(embedding_TE, "text", data.texts)
    first_T = (sorted_length_T.cumsum(0) - sorted_length_T)[order_T.argsort()]
    return EncodedTexts(embedding_TE, TextTable(torch.cat(rows), first_T, length_T))


def _round_rows(token_UTD: Tensor, units: Units, number: int, sorted_length_T: Tensor) -> Tensor:
    """The real tokens [S, D] of the round's units on all ranks, in the texts' sorted order."""
    last_rank = distributed.world_size() - 1
    texts = range(units.unit(number, 0).start, units.unit(number, last_rank).stop)
    length_n = sorted_length_T[texts.start : texts.stop]
    longest = int(length_n[-1])
    token_UTD = filled(pad_tokens(token_UTD, longest), units.size)
    everyone_nTD = distributed.all_gather_rows(token_UTD)[: len(texts)]
    valid_nT = torch.arange(longest) < length_n[:, None]
    return everyone_nTD[valid_nT.to(everyone_nTD.device)]


def _unit_length(embedding_UE: Tensor) -> Tensor:
    return F.normalize(embedding_UE.float(), dim=-1)


def _check_finite(embedding: Tensor, kind: str, names: tuple[str, ...]) -> None:
    bad = (~embedding.isfinite().all(dim=1)).nonzero().squeeze(1).tolist()
    if bad:
        named = ", ".join(repr(names[row]) for row in bad[:_NAMED_IN_ERROR])
        raise UserError(
            f"the embeddings of {len(bad)} {kind}s are not finite, first those of {named}",
            where="retrieval",
            fix="the weights hold NaN or overflow: an earlier checkpoint, or fp32 in place of fp16",
        )
