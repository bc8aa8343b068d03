"""Retrieval: the pretraining task with contrast and matching, judged over all captions."""

from __future__ import annotations

from collections import Counter

from vlpretrain.build.overlap import overlap_of
from vlpretrain.build.pairs import PretrainKit
from vlpretrain.data.held_out import HeldOut
from vlpretrain.data.tokenise import Tokeniser
from vlpretrain.errors import UserError
from vlpretrain.tasks.retrieval_evaluator import RetrievalEvaluator
from vlpretrain.tasks.retrieval_set import RetrievalSet
from vlpretrain.types import Evaluator, Sample

NAMED = 3


class RetrievalKit(PretrainKit):
    """Trained as in pretraining, by the objectives of the configuration."""

    def evaluator(self) -> Evaluator | None:
        if not self.config.data.val:
            return None
        return RetrievalEvaluator(
            retrieval_set(self.held_out, self.tokeniser, self.config.data.max_tokens),
            ks=self.config.task.retrieval.k,
            batch_size=self.config.evaluation.batch,
            with_contrast=self.config.task.retrieval.order == "both",
            overlap=lambda: overlap_of(self.config),
        )


def retrieval_set(held_out: HeldOut, tokeniser: Tokeniser, max_tokens: int) -> RetrievalSet:
    """Every picture and every caption of held-out samples.

    Raises:
        UserError: two samples with one image_id, or no caption at all.
    """
    _check_ids(held_out.samples)
    texts = [caption for sample in held_out.samples for caption in sample.captions]
    rows = [row for row, sample in enumerate(held_out.samples) for _ in sample.captions]
    return RetrievalSet(
        keys=tuple(f"{sample.shard}/{sample.key}" for sample in held_out.samples),
        texts=tuple(texts),
        text_ids=tuple(tuple(text.ids) for text in tokeniser.encode(texts, max_tokens)),
        image_of_text=tuple(rows),
        pad_id=tokeniser.pad_id,
        load_pixels=held_out.pixels,
    )


def _check_ids(samples: list[Sample]) -> None:
    """A picture that is there twice would be its own wrong answer."""
    named = [sample for sample in samples if sample.metadata.get("image_id") is not None]
    counts = Counter(str(sample.metadata["image_id"]) for sample in named)
    twice = [identity for identity, count in counts.items() if count > 1]
    if not twice:
        return
    keys = [f"{one.shard}/{one.key}" for one in named if str(one.metadata["image_id"]) == twice[0]]
    raise UserError(
        f"{len(twice)} pictures stand under an id of another: {', '.join(twice[:NAMED])} "
        f"({' and '.join(keys[:2])})",
        where="data.val",
        fix="keep one sample a picture, with all of its captions; `data_tools convert` does",
    )
