"""What an objective is, and what it may ask of the shared forward.

An objective adds its head and its loss, in one file and one line of `table.OBJECTIVES`. It never
calls a tower or the fusion itself: it names the features that it needs and the pairs that it wants
joined, and `PretrainTask` computes each tensor once for all of them.

Beside the project's legend (types.py): R rows of a table of texts or pictures, K states read,
X rows of other ranks' pictures.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from vlpretrain.types import COUNTS, Batch, MicroBatch

if TYPE_CHECKING:
    from vlpretrain.objectives.features import Features


class Need(Enum):
    """A part of Features that an objective reads."""

    IMAGE = "image"
    HIDDEN_IMAGE = "hidden_image"
    TEXT = "text"
    MASKED_TEXT = "masked_text"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True)
class FusionRequest:
    """Pairs of a text and a picture to be read together, and the states wanted of them.

    Pair p joins row `text_row_P[p]` of `text_RTD` with a picture: rows 0 .. B-1 are the
    micro-batch's own, and B + x is row x of `extra_image_XND`. State k is token `read_token_K[k]`
    of pair `read_pair_K[k]`.
    """

    text_RTD: Tensor
    text_valid_RT: Tensor
    text_row_P: Tensor
    image_row_P: Tensor
    read_pair_K: Tensor
    read_token_K: Tensor
    extra_image_XND: Tensor | None = None
    pair_weight_P: Tensor | None = None  # 0 where the pair counts for nothing; None: 1 everywhere


@dataclass(frozen=True, slots=True)
class JudgedPairs:
    """What the matching head said of pairs; the first B are the micro-batch's own."""

    logit_P2: Tensor
    match_P: Tensor  # bool
    weight_P: Tensor
    text_row_P: Tensor
    image_row_P: Tensor


@dataclass(frozen=True, slots=True)
class ObjectiveOutput:
    """A loss whose mean over micro-batches and ranks is the global mean, and detached metrics.

    `judged` and `picture_BCHW` (the predicted picture, in the tower's normalised colours) are for
    the evaluator.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    judged: JudgedPairs | None = None
    picture_BCHW: Tensor | None = None


class Objective(nn.Module, ABC):
    """A pretraining loss with its head."""

    needs: ClassVar[frozenset[Need]]
    unit: ClassVar[str]
    """What the loss is a mean over: a name of types.COUNTS."""

    def request(self, features: Features, batch: Batch) -> FusionRequest | None:
        """The pairs to be joined for this objective; uses none of its parameters (ZeRO-3)."""
        return None

    @abstractmethod
    def forward(
        self,
        features: Features,
        batch: Batch,
        request: FusionRequest | None,
        fused_KD: Tensor | None,
    ) -> ObjectiveOutput:
        """The loss; `fused_KD` are the states that `request` asked for."""


# The share of a weight that a ramp begins with.
RAMP_FROM = 1e-3


def mean_count(batch: MicroBatch, unit: str) -> Tensor:
    """What a local sum is divided by; 1 where the whole global batch holds none of it."""
    count = batch.mean_counts[COUNTS.index(unit)]
    return count.where(count > 0, count.new_ones(()))


def objective_weight(
    weight: float, start: float, stop: float, ramp: float, progress: float
) -> float:
    """An objective's weight at a share of the run; 0: it is not computed at all.

    It runs from `start` (included) to `stop` (excluded, but for the run's end) and its weight
    rises linearly over the `ramp` after `start`, from RAMP_FROM of it: at `start` it is on, so that
    a run whose objectives all begin there has one. A function of progress alone, so that every rank
    runs the same modules.
    """
    if progress < start or (progress >= stop and stop < 1):
        return 0.0
    return weight * min(1.0, max(RAMP_FROM, (progress - start) / ramp)) if ramp > 0 else weight
