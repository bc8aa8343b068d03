"""Held-out questions: all of their texts, and their pictures on demand.

Shapes: I pictures, Q questions, P pictures of a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain.padding import pad_ids
from vlpretrain.types import COUNTS, QuestionBatch, Skip


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """A question of a sample; without answers it belongs to a test set."""

    text: str
    answers: tuple[str, ...]
    id: str | int
    sample: int  # row of the set's samples
    type: str = ""
    answer_type: str = ""
    group: str = ""


@dataclass(frozen=True)
class QuestionSet:
    """Questions in the order of their samples.

    Args:
        token_ids: of each question's text.
        load_pixels: sample rows -> their pictures, uint8 [n * P, 3, S, S], sample by sample.
        num_pictures: P.
        skips: what could not be read so far: `load_pixels` may add to it.
    """

    questions: tuple[AskedQuestion, ...]
    token_ids: tuple[tuple[int, ...], ...]
    load_pixels: Callable[[Sequence[int]], Tensor]
    num_pictures: int
    pad_id: int
    skips: Sequence[Skip] = ()

    def batches(
        self, size: int, rank: int, world_size: int
    ) -> Iterator[tuple[list[int], QuestionBatch]]:
        """Question rows and their batch for one rank's share: `size` samples at once.

        Every rank gets equally many batches; where there is none left, the first one comes again
        with no row, so that all ranks call the same modules equally often.
        """
        chunks = self._chunks(size)
        for start in range(0, len(chunks), world_size):
            mine = start + rank
            if mine < len(chunks):
                yield chunks[mine], self._batch(chunks[mine])
            else:
                yield [], self._batch(chunks[0])

    def _chunks(self, size: int) -> list[list[int]]:
        """Question rows by `size` samples that have questions."""
        by_sample: dict[int, list[int]] = {}
        for row, question in enumerate(self.questions):
            by_sample.setdefault(question.sample, []).append(row)
        groups = list(by_sample.values())
        return [
            [row for group in groups[first : first + size] for row in group]
            for first in range(0, len(groups), size)
        ]

    def _batch(self, rows: Sequence[int]) -> QuestionBatch:
        samples = list(dict.fromkeys(self.questions[row].sample for row in rows))
        place = {sample: number for number, sample in enumerate(samples)}
        texts = {self.token_ids[row]: None for row in rows}
        text_row = {ids: place for place, ids in enumerate(texts)}
        text_RT, valid_RT = pad_ids(list(texts), self.pad_id)
        first_Q1 = torch.tensor([[place[self.questions[row].sample]] for row in rows])
        none = torch.empty(0, dtype=torch.int64)
        no_text = torch.empty(0, 1, dtype=torch.int64)
        return QuestionBatch(
            pixels_ICHW=self.load_pixels(samples),
            text_RT=text_RT,
            text_valid_RT=valid_RT,
            text_row_Q=torch.tensor([text_row[self.token_ids[row]] for row in rows]),
            image_row_QP=first_Q1 * self.num_pictures + torch.arange(self.num_pictures),
            answer_question_S=none,
            answer_index_S=none,
            answer_score_S=none.float(),
            answer_share_S=none.float(),
            answer_text_SL=no_text,
            answer_place_M=none,
            counts=torch.zeros(len(COUNTS)),
            mean_counts=torch.zeros(len(COUNTS)),
            keys=tuple(str(self.questions[row].id) for row in rows),
        )
