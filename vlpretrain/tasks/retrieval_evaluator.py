"""Retrieval both ways: by the dual encoder, then its first candidates re-ranked by the fusion.

Each query's k nearest candidates by embedding are put in a new order; all others stay behind
them. The order is that of the matching head's log-odds (ALBEF, Li et al. 2021), or of the log-odds
and the contrastive logit together. A head that was trained on negatives drawn in proportion to
exp(contrastive logit) finds log p(match) / p(such a negative): what its negatives were chosen by
cancels in it, and the sum brings it back. Shapes: Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from vlpretrain import distributed
from vlpretrain.errors import UserError
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.retrieval_figures import figures
from vlpretrain.tasks.retrieval_files import write_files
from vlpretrain.tasks.retrieval_search import PICTURE_MEMORY, search_both_ways
from vlpretrain.tasks.retrieval_set import RetrievalSet

DEFAULT_KS = (16, 32, 64, 128)


class HasModel(Protocol):
    """A task as the evaluator sees it: a Module that holds the model."""

    model: VLModel
    training: bool

    @property
    def temperature(self) -> Callable[[], Tensor]:
        """The factor of contrastive logits."""
        ...

    def train(self, mode: bool = True) -> Any: ...


class RetrievalEvaluator:
    """types.Evaluator of any task with a `model`.

    The figures are the same to the bit for any `batch_size`, `picture_memory` and number of ranks.

    Args:
        ks: how many candidates of each query are re-ranked. Several give a curve, at the price of
            the largest alone; empty: the dual encoder is all there is.
        batch_size: pictures that are loaded at once.
        picture_memory: bytes of picture tokens that a rank holds at a time, see PictureTokens.
        with_contrast: re-rank by log-odds and contrastive logit; False: by log-odds alone.
        overlap: whether these samples were trained on, for retrieval.json.
    """

    def __init__(
        self,
        data: RetrievalSet,
        ks: Sequence[int] = DEFAULT_KS,
        batch_size: int = 64,
        picture_memory: int = PICTURE_MEMORY,
        with_contrast: bool = False,
        overlap: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        if any(k < 0 for k in ks):
            raise UserError(
                f"re-ranking of {min(ks)} candidates", where="task.retrieval.k", fix="0 or more"
            )
        self.data, self.ks = data, _useful(ks, data)
        self.batch_size, self.picture_memory = batch_size, picture_memory
        self.with_contrast, self.overlap = with_contrast, overlap

    def __call__(self, task: HasModel, folder: Path) -> dict[str, float]:
        """Figures by name; the main rank writes retrieval.json and its pictures.

        Raises:
            UserError: an embedding or a matching score that is not finite.
        """
        training = task.training
        task.train(False)
        try:
            contrast = float(task.temperature()) if self.with_contrast else 0.0
            found = search_both_ways(
                task.model, self.data, self.ks, self.batch_size, self.picture_memory, contrast
            )
        finally:
            task.train(training)
        if distributed.is_main():
            write_files(found, self.data, self.overlap(), folder)
        return figures(found)


def _useful(ks: Sequence[int], data: RetrievalSet) -> tuple[int, ...]:
    """The positive ones in order, none beyond the number of candidates."""
    most = max(len(data.keys), len(data.texts))
    return tuple(sorted({min(k, most) for k in ks if k}))
