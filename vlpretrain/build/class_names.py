"""Which classes a run knows: from the configuration, its run folder, an export, or labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from vlpretrain.build.model import named
from vlpretrain.build.resumed import resumed_run
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.held_out import HeldOut, read_texts
from vlpretrain.data.labels import ClassList, class_name, in_order
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.sample import SampleError
from vlpretrain.data.shards import Source
from vlpretrain.distributed import is_main
from vlpretrain.errors import UserError
from vlpretrain.models.weights import read_description, save_description
from vlpretrain.tasks.classification_set import LabelledSet
from vlpretrain.types import Skip

CLASSES_FILE = "classes.json"


def training_classes(config: RunConfig, sources: Sequence[Source], folder: Path) -> tuple[str, ...]:
    """Those of the run that is gone on with, else those of the configuration, else the labels of
    the training samples. Rank 0 leaves them in the run's folder, where the others find them.

    Raises:
        UserError: the configuration names others than the run was begun with; no sample has a
            label.
    """
    wanted = config.task.classification.classes
    owner = resumed_run(config, folder) if is_main() else folder
    if owner is not None and (owner / CLASSES_FILE).is_file():
        classes = tuple(read_description(owner / CLASSES_FILE)["classes"])
        check_same(classes, wanted, f"the run in {owner} was begun")
    else:
        classes = wanted or read_classes(sources, "data.train")
    if is_main():
        save_description({"classes": classes}, folder / CLASSES_FILE)
    return classes


def check_same(classes: tuple[str, ...], wanted: tuple[str, ...], made: str) -> None:
    """Raises UserError where classes are wanted and are others.

    Args:
        made: "the model was fine-tuned".
    """
    if not wanted or wanted == classes:
        return
    only = [*(set(wanted) ^ set(classes))]
    differing = f"; not in both: {named(in_order(only))}" if only else ", in another order"
    raise UserError(
        f"{made} with {len(classes)} classes, the configuration names {len(wanted)}{differing}",
        where="task.classification.classes",
        fix="leave it empty: the classes are kept with the model",
    )


def read_classes(sources: Sequence[Source], where: str) -> tuple[str, ...]:
    """The labels of all samples, in order; every sample's JSON is read.

    Raises:
        UserError: none has a label.
    """
    reader, names, reasons = ShardReader(sources), set[str](), Counter[str]()
    for _, sample in read_texts(sources, reader, []):
        try:
            names.add(class_name(sample))
        except SampleError as error:
            reasons[str(error)] += 1
    reader.close()
    if not names:
        raise _unlabelled(reasons, sum(reasons.values()), where)
    return in_order(names)


def labelled_set(
    held_out: HeldOut, classes: tuple[str, ...], most_left_out: float, where: str
) -> LabelledSet:
    """The samples whose label is one of the classes; the others are added to `held_out.skips`.

    Raises:
        UserError: a larger share than `most_left_out` has no such label.
    """
    known, rows, label_N = ClassList(classes), list[int](), list[int]()
    reasons = Counter[str]()
    for row, sample in enumerate(held_out.samples):
        try:
            label_N.append(known.index(sample))
            rows.append(row)
        except SampleError as error:
            reasons[str(error)] += 1
            held_out.skips.append(Skip(sample.shard, sample.key, str(error)))
    if sum(reasons.values()) > most_left_out * len(held_out):
        raise _unlabelled(reasons, len(held_out), where)

    def load(places: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        asked = [rows[place] for place in places]
        pixels_BCHW = held_out.pixels(asked)
        return pixels_BCHW, torch.tensor([row not in held_out.broken for row in asked])

    return LabelledSet(load, torch.tensor(label_N, dtype=torch.int64), len(held_out.skips))


def _unlabelled(reasons: Counter[str], num_samples: int, where: str) -> UserError:
    quoted = "".join(f"\n  {count:,}: {reason}" for reason, count in reasons.most_common(3))
    return UserError(
        f"{sum(reasons.values()):,} of {num_samples:,} samples are of no class{quoted}",
        where=where,
        fix='shards whose records have such a "label": python -m data_tools convert folders '
        "makes them of class folders",
    )
