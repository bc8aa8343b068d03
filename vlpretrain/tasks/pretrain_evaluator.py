"""How far pretraining has come, seen on held-out samples.

Shapes: B samples of a batch, Q queries and candidates, P pairs, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.errors import UserError
from vlpretrain.metrics.matching import balanced_accuracy
from vlpretrain.metrics.retrieval import chance_recall, median_rank, recall_at_k
from vlpretrain.objectives.base import JudgedPairs
from vlpretrain.objectives.pretrain import EvaluationOutput, PretrainTask
from vlpretrain.tasks.gallery import Gallery
from vlpretrain.types import COUNTS, Batch, Embeddings

RECALL_AT = (1, 5, 10)

# The contrastive loss is one of a batch size, which is not the training's; recall stands for it.
# Matching accuracy is taken over balanced pairs instead.
LEFT_OUT = frozenset({"loss/itc", "itc/scale", "itm/accuracy"})


class PretrainEvaluator:
    """types.Evaluator of a PretrainTask.

    Retrieval between all held-out pictures and texts by their embeddings, matching of balanced
    pairs with random negatives, and the losses of masked pictures and words; pictures are whole but
    for the masked-image loss. Every rank looks at every sample, so the calls are the same
    everywhere, and the figures are averaged to be so too.

    Args:
        batches: of held-out samples; gone through anew at each call, so not an iterator.
        read_text: token ids of a text, without padding, to words for the report.
    """

    def __init__(self, batches: Iterable[Batch], read_text: Callable[[Sequence[int]], str]) -> None:
        self.batches = batches
        self.read_text = read_text

    def __call__(self, task: PretrainTask, folder: Path) -> dict[str, float]:
        """Figures by name; the main rank writes the report's pictures and evaluation.json.

        Raises:
            UserError: there is no held-out sample.
        """
        training = task.training
        task.eval()
        try:
            figures, gallery = self._look(task)
        finally:
            task.train(training)
        if distributed.is_main():
            gallery.write(folder)
        return _agree(figures)

    @torch.no_grad()
    def _look(self, task: PretrainTask) -> tuple[dict[str, float], Gallery]:
        device = next(task.parameters()).device
        sums, gallery = Sums(), Gallery(task.model.vision, self.read_text)
        for number, batch in enumerate(self.batches):
            # With its own counts for the mean, a metric is the batch's own.
            counted = replace(batch.to(device), mean_counts=batch.counts.to(device), seed=number)
            output = task(counted, evaluate=True)
            sums.add(task, counted, output)
            gallery.add(counted, output)
        return sums.figures(), gallery


class Sums:
    """What has been seen so far, still on the device."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.count: dict[str, Tensor] = {}
        self.embeddings: list[Embeddings] = []
        self.judged: list[JudgedPairs] = []
        self.batches = 0

    def add(self, task: PretrainTask, batch: Batch, output: EvaluationOutput) -> None:
        self.batches += 1
        for name, result in output.outputs.items():
            count = batch.counts[COUNTS.index(task.objective(name).unit)]
            for metric, value in result.metrics.items():
                self.total[metric] = self.total.get(metric, 0) + value.double() * count
                self.count[metric] = self.count.get(metric, 0) + count
            if result.judged is not None:
                self.judged.append(result.judged)
        if output.embeddings is not None:
            self.embeddings.append(output.embeddings)

    def figures(self) -> dict[str, float]:
        if not self.batches:
            raise UserError(
                "no held-out sample to evaluate on",
                where="data.val",
                fix="name shards with samples, or leave data.val empty",
            )
        means = {
            f"val/{name}": float(total / self.count[name])
            for name, total in self.total.items()
            if name not in LEFT_OUT and self.count[name] > 0
        }
        return means | matching_figures(self.judged) | retrieval_figures(self.embeddings)


def matching_figures(judged: Sequence[JudgedPairs]) -> dict[str, float]:
    """Accuracy over balanced pairs; chance is a half. Empty without pairs of both kinds."""
    if not judged:
        return {}
    logit_P2 = torch.cat([pairs.logit_P2 for pairs in judged])
    match_P = torch.cat([pairs.match_P for pairs in judged])
    weight_P = torch.cat([pairs.weight_P for pairs in judged])
    counts = weight_P > 0
    if not bool((counts & match_P).any() and (counts & ~match_P).any()):
        return {}
    return {"val/itm_accuracy": balanced_accuracy(logit_P2, match_P, weight_P)}


def retrieval_figures(embeddings: Sequence[Embeddings]) -> dict[str, float]:
    """Recall both ways among all pairs, and its chance; empty without any pair.

    A candidate is right when it belongs to the same picture or is the same caption.
    """
    if not embeddings:
        return {}
    valid_Q = torch.cat([part.pair_valid_B for part in embeddings])
    if not bool(valid_Q.any()):
        return {}
    image_QE = torch.cat([part.image_BE for part in embeddings])[valid_Q]
    text_QE = torch.cat([part.text_BE for part in embeddings])[valid_Q]
    image_id_Q = torch.cat([part.image_id_B for part in embeddings])[valid_Q]
    text_id_Q = torch.cat([part.text_id_B for part in embeddings])[valid_Q]
    right_QQ = (image_id_Q[:, None] == image_id_Q) | (text_id_Q[:, None] == text_id_Q)
    similarity_QQ = image_QE @ text_QE.T
    figures: dict[str, float] = {}
    for way, scores_QQ in (
        ("image_to_text", similarity_QQ),
        ("text_to_image", similarity_QQ.T),
    ):
        recall = recall_at_k(scores_QQ, right_QQ, RECALL_AT)
        figures |= {f"val/{way}_recall@{k}": value for k, value in recall.items()}
        figures[f"val/{way}_median_rank"] = median_rank(scores_QQ, right_QQ)
    chance = chance_recall(right_QQ, RECALL_AT)
    return figures | {f"val/chance_recall@{k}": value for k, value in chance.items()}


def _agree(figures: dict[str, float]) -> dict[str, float]:
    """The mean over ranks, whose float noise could differ."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    values = distributed.all_mean(
        torch.tensor(list(figures.values()), dtype=torch.float64, device=device)
    )
    return dict(zip(figures, values.tolist(), strict=True))
