"""How many pictures are given their class, by fine-tuning, probe, neighbours or names.

Shapes: N pictures, B pictures of a call, C classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlpretrain import distributed
from vlpretrain.errors import UserError
from vlpretrain.metrics.classification import per_class_accuracy
from vlpretrain.metrics.interval import bootstrap_interval
from vlpretrain.tasks.classification import ClassificationTask
from vlpretrain.tasks.classification_examples import write_examples
from vlpretrain.tasks.classification_judged import SHOWN, Judged, gather_judged, judge
from vlpretrain.tasks.classification_scores import Scorer, device_of
from vlpretrain.tasks.classification_set import LabelledSet
from vlpretrain.tasks.units import Units

FILE = "classification.json"


@dataclass(frozen=True)
class ClassificationEvaluator:
    """types.Evaluator of a ClassificationTask; the work is divided over ranks, the figures are
    equal.

    Args:
        mode: finetune, linear_probe, knn or zero_shot, for the record.
        batch: pictures of a call.
        overlap: with the training data, for the record.
    """

    pictures: LabelledSet
    classes: tuple[str, ...]
    scorer: Scorer
    mode: str
    batch: int
    overlap: Callable[[], dict[str, Any] | None] = lambda: None

    def __call__(self, task: ClassificationTask, folder: Path) -> dict[str, float]:
        """Figures by name; the main rank writes classification.json and its pictures.

        Raises:
            UserError: there is no picture to judge by.
        """
        training = task.training
        task.eval()
        try:
            judged = self._look(task)
        finally:
            task.train(training)
        record = self._record(judged)
        if distributed.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            record["examples"] = write_examples(judged, self.pictures, self.classes, folder)
            record["overlap"] = self.overlap()
            _write_json(folder / FILE, record)
        return figures(record)

    @torch.no_grad()
    def _look(self, task: ClassificationTask) -> Judged:
        """Every picture once."""
        if not len(self.pictures):
            raise _nothing("no held-out picture has a class")
        score, device = self.scorer(task), device_of(task)
        units = Units(len(self.pictures), self.batch)
        parts = []
        for part in self.pictures.shares(units):
            score_BC = score(part.pixels_BCHW.to(device))
            parts.append(judge(score_BC, part.label_B.to(device), part.readable_B.to(device)))
        return gather_judged(units, parts)

    def _record(self, judged: Judged) -> dict[str, Any]:
        """The content of classification.json, but for what the main rank alone looks at."""
        readable_N = judged.readable_N
        if not readable_N.any():
            raise _nothing("none of the held-out pictures can be read")
        rank_N = judged.rank_N[readable_N]
        hit_N = (rank_N == 1).double()
        label_N = self.pictures.label_N[readable_N]
        by_class = per_class_accuracy(rank_N == 1, label_N, len(self.classes))
        record: dict[str, Any] = {
            "mode": self.mode,
            "num_images": len(rank_N),
            "num_left_out": self.pictures.left_out + int((~readable_N).sum()),
            "num_classes": len(self.classes),
            "top1": hit_N.mean().item(),
            "interval": list(bootstrap_interval(hit_N.numpy())),
            "mean_of_classes": by_class.mean(),
            "chance": {"top1": constant_accuracy(by_class.num_C, 1)},
            "per_class": by_class.rows(self.classes),
        }
        if len(self.classes) > SHOWN:
            record["top5"] = (rank_N <= SHOWN).double().mean().item()
            record["chance"]["top5"] = constant_accuracy(by_class.num_C, SHOWN)
        return record


def constant_accuracy(num_C: Tensor, k: int) -> float:
    """What naming the same k classes for every picture gets at best: the share of the k most
    frequent; in a balanced set k of C.

    Args:
        num_C: pictures of each class.
    """
    return int(num_C.topk(k).values.sum()) / int(num_C.sum())


def figures(record: dict[str, Any]) -> dict[str, float]:
    """Of a classification.json, as metrics.jsonl names them."""
    named = {f"val/{name}": record[name] for name in ("top1", "top5") if name in record}
    named["val/mean_of_classes"] = record["mean_of_classes"]
    return named | {f"val/chance_{name}": level for name, level in record["chance"].items()}


def _nothing(problem: str) -> UserError:
    return UserError(
        problem,
        where="data.val",
        fix='shards of `python -m data_tools convert folders`, or a "label" in the JSON beside '
        "each picture",
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, path)
