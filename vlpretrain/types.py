"""What the layers hand to each other. Imports nothing of ours.

Shape legend, for the whole project:
    B samples of a micro-batch   N image tokens   T text tokens   D width   E embedding width
    C channels   H W pixels   G mask blocks (row-major over the picture)   M hidden words   P pairs
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RawSample:
    """One record of a shard, as bytes.

    `parts` maps what follows the key's first dot ("jpg", "json", "000.jpg") to the member's bytes.
    """

    key: str
    shard: str
    parts: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Sample:
    """One record, parsed: the picture still encoded, the texts decoded."""

    key: str
    shard: str
    image: bytes | None
    captions: tuple[str, ...]
    metadata: dict[str, Any]
    images: tuple[bytes, ...] = ()  # all pictures in the order of their names, the first is `image`


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the sample order: a pure function of (seed, epoch, position)."""

    epoch: int
    position: int
    source: int
    shard: int
    row: int


# What a loss is divided by, counted on the host by the collator; see Batch.counts.
COUNTS = ("images", "texts", "pairs", "hidden_blocks", "hidden_words", "questions", "labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What the loop knows of one rank's micro-batch. Tensors only, but for `keys`, `seed` and
    `progress`; each task adds its own."""

    counts: Tensor  # float32 [len(COUNTS)], what this micro-batch holds
    # The mean of `counts` over all micro-batches and ranks of the global batch, set by the loop: a
    # loss is its local sum over this, so the mean over micro-batches and ranks is the global mean.
    mean_counts: Tensor
    keys: tuple[str, ...]  # "shard/key" of each row, for messages
    seed: int = 0  # (run seed, step, micro-step) as one, equal on every rank; set by the loop
    progress: float = 0.0  # share of the run that is done, 0 to 1; schedules read it

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {
            item.name: change(getattr(self, item.name))
            for item in fields(self)
            if isinstance(getattr(self, item.name), Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(MicroBatch):
    """A micro-batch of pictures and captions, for pretraining and retrieval.

    A sample without a picture (or without a text) keeps its row: a blank stands in,
    `image_present_B` (`text_present_B`) is False, and no loss reads the row. So every rank runs
    the same modules whatever its samples hold.
    """

    pixels_BCHW: Tensor  # uint8 RGB, cropped to the run's size
    text_BT: Tensor  # int64 token ids, padded to the longest of the micro-batch
    text_valid_BT: Tensor  # bool, True where a real token stands
    masked_text_BT: Tensor  # text_BT with the hidden words replaced (mlm's input)
    hidden_word_index_M: Tensor  # int64, row * T + column of every hidden word piece
    hidden_word_target_M: Tensor  # int64 token id that stood there
    block_hidden_BG: Tensor  # bool, True where the picture is hidden from the tower
    image_present_B: Tensor  # bool
    text_present_B: Tensor  # bool
    image_id_B: Tensor  # int64; equal for the same picture
    text_id_B: Tensor  # int64; equal for the same normalised caption


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionBatch(MicroBatch):
    """A micro-batch of pictures with their questions; a picture is there once for all of them.

    I pictures, Q questions, P pictures of a question (1, or 2 as in NLVR2), R distinct texts of
    questions, S distinct answers of all questions, L answer tokens.
    """

    pixels_ICHW: Tensor  # uint8 RGB
    text_RT: Tensor  # int64 token ids, padded to the longest of the micro-batch
    text_valid_RT: Tensor  # bool, True where a real token stands
    text_row_Q: Tensor  # int64, each question's text
    image_row_QP: Tensor  # int64, the pictures that a question is about
    answer_question_S: Tensor  # int64, the question that an answer was given to
    answer_index_S: Tensor  # int64 place in the answer vocabulary, -1 outside of it
    answer_score_S: Tensor  # float32, the accuracy that giving this answer would have
    answer_share_S: Tensor  # float32, the share of the humans who gave it
    answer_text_SL: Tensor  # int64 token ids, start and end tokens included
    # int64, flat places s * (L - 1) + i: token i of answer s is real, and a real one follows.
    answer_place_M: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelBatch(MicroBatch):
    """A micro-batch of pictures with their classes."""

    pixels_BCHW: Tensor  # uint8 RGB
    label_B: Tensor  # int64


@dataclass(frozen=True, slots=True)
class GlobalEmbeddings:
    """Both sides' embeddings of the whole global batch, and where this part's rows stand in it.

    A part is one micro-batch of one rank. The order is that of the global batch: micro-step by
    micro-step, rank by rank. All without gradient.
    """

    image_BE: Tensor
    text_BE: Tensor
    pair_valid_B: Tensor  # bool, True where a row has both picture and text
    image_id_B: Tensor
    text_id_B: Tensor
    start: int  # first row of this part
    num_parts: int  # micro-steps x ranks


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One micro-batch's contribution to GlobalEmbeddings."""

    image_BE: Tensor
    text_BE: Tensor
    pair_valid_B: Tensor
    image_id_B: Tensor
    text_id_B: Tensor


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a task's forward returns for one micro-batch.

    `loss` is a scalar with gradient; `metrics` are detached scalars whose mean over micro-batches
    and ranks is the global figure ("loss/mim", "itm/accuracy", ...).
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    embeddings: Embeddings | None = None  # set in a contrastive prepass, else None


class TrainTask(Protocol):
    """What the loop trains: a Module. Pretraining, fine-tuning and distillation are such tasks."""

    def needs_prepass(self, progress: float) -> bool:
        """True when micro-batches must know each other's embeddings (contrast under accumulation).

        The loop then first calls every micro-batch with `prepass=True` without gradient, gathers
        the embeddings, and replays it with the same randomness and `others`.
        """

    def __call__(
        self, batch: Any, others: GlobalEmbeddings | None = None, prepass: bool = False
    ) -> StepOutput: ...


@dataclass(frozen=True, slots=True)
class Skip:
    """A sample that could not be used, and why."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepData:
    """One rank's share of one global batch."""

    micro_batches: tuple[MicroBatch, ...]
    skips: tuple[Skip, ...]  # met on the way, each already replaced


class TrainLoader(Protocol):
    """Global batches by step number: the data state of a run is one integer."""

    @property
    def samples_per_epoch(self) -> int: ...

    def steps(self, first: int, last: int, skipped: int = 0) -> Iterator[StepData]:
        """This rank's share of steps first .. last - 1.

        Args:
            skipped: samples of the steps before `first` that could not be used, over all ranks.
        """


class Evaluator(Protocol):
    """Looks at held-out samples. Every rank calls it; every rank gets the same figures."""

    def __call__(self, task: Any, folder: Path) -> dict[str, float]:
        """Figures by name ("val/itm_accuracy", ...); may write report pictures to `folder`."""
