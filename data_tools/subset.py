"""A share of a data set, for what a model makes of few labels.

What is kept is a function of the seed and of each sample's (or question's) own name: a larger share
holds all of a smaller one, on every machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_tools.output import TarSample, new_folder, write_shards
from data_tools.progress import tracked
from data_tools.reading import open_shards, read_samples
from vlpretrain.data.index import load_index
from vlpretrain.data.keyed import stable_hash
from vlpretrain.errors import UserError
from vlpretrain.types import RawSample

UNITS = ("samples", "questions")
_RANGE = 2**63


@dataclass(frozen=True, slots=True)
class SubsetOptions:
    """What is kept: a share of the samples, or of all questions with the samples they belong to."""

    share: float
    unit: str = "samples"
    seed: int = 0
    shard_size: int = 1000
    overwrite: bool = False


def write_subset(spec: str, out: Path, options: SubsetOptions) -> str:
    """Writes the shards to `out`, whole or not at all; returns a line for the screen.

    Raises:
        UserError: a share that keeps nothing, or that is none.
    """
    if not 0 < options.share <= 1:
        raise UserError(f"{options.share} is no share", where="--share", fix="over 0 and up to 1")
    source = open_shards(spec)
    counted = [0, 0]
    with new_folder(out, overwrite=options.overwrite) as folder:
        raws = tracked(read_samples(source), "samples read", int(source.sizes.sum()))
        kept = (_kept(raw, options, counted) for raw in raws)
        samples = (sample for sample in kept if sample is not None)
        for shard in write_shards(folder, samples, options.shard_size, prefix="shard"):
            load_index(str(shard))
        if not counted[0]:
            raise UserError(
                f"a share of {options.share:g} of the {options.unit} keeps nothing",
                where=spec,
                fix="a larger --share",
            )
    return f"{counted[0]:,} samples with {counted[1]:,} questions: {out}"


def _kept(raw: RawSample, options: SubsetOptions, counted: list[int]) -> TarSample | None:
    """The sample as it is to be written, or None; counts samples and questions."""
    sample: TarSample = {"__key__": raw.key, **raw.parts}
    record: dict[str, Any] = json.loads(raw.parts["json"]) if "json" in raw.parts else {}
    questions = list(record.get("questions") or ())
    if options.unit == "samples":
        if not _chosen(raw.key, options):
            return None
    else:
        names = [str(one.get("question_id", f"{raw.key}/{n}")) for n, one in enumerate(questions)]
        questions = [
            one for one, name in zip(questions, names, strict=True) if _chosen(name, options)
        ]
        if not questions:
            return None
        text = json.dumps(record | {"questions": questions}, ensure_ascii=False)
        sample["json"] = text.encode()
    counted[0] += 1
    counted[1] += len(questions)
    return sample


def _chosen(name: str, options: SubsetOptions) -> bool:
    return stable_hash(f"{options.seed}\0{name}") < options.share * _RANGE
