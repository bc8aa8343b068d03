"""What a run is about to do: printed at its start, kept in summary.json, shown in the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlpretrain.build import TaskKit, count_steps
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.loader import Loader
from vlpretrain.data.shards import Source
from vlpretrain.distributed import world_size
from vlpretrain.engine.run_folder import writing
from vlpretrain.models.vlmodel import parameter_counts

# Samples that the mean colour is taken of.
CHANCE_SAMPLES = 64
# What a task adds to the model, where it is no head.
OWN_PART = {"pretrain": "objectives", "retrieval": "objectives"}


@dataclass(frozen=True)
class Summary:
    """The content of summary.json; levels of chance are by the name of the metric."""

    command: list[str]
    data: dict[str, Any]
    parameters: dict[str, int]
    weights: list[str]  # of pretrained weights: what loaded, and what did not
    vocab_size: int
    chance: dict[str, float]
    total_steps: int
    task: dict[str, Any] = field(default_factory=dict)  # what else there is to say of it

    def lines(self) -> list[str]:
        """For the screen."""
        millions = {part: f"{count / 1e6:.1f}M" for part, count in self.parameters.items()}
        return [
            f"data: {self.data['samples']:,} samples in {self.data['shards']:,} shards",
            *self._unusable(),
            "model: " + ", ".join(f"{part} {size}" for part, size in millions.items()),
            *self.weights,
            *(f"{name}: {value}" for name, value in self.task.items()),
            f"run: {self.total_steps:,} steps on {world_size()} "
            f"process{'es' if world_size() > 1 else ''}, into {self.data['run_folder']}",
        ]

    def _unusable(self) -> list[str]:
        """What the shards hold that is left out, and one example."""
        return [
            f"  {source['source']}: {source['unusable']:,} records can't be used and are left out "
            f"({source['example']}); python -m data_tools validate names them"
            for source in self.data["sources"]
            if source["unusable"]
        ]

    def write(self, path: Path) -> None:
        with writing(path):
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def summarise(
    config: RunConfig, sources: Sequence[Source], loader: Loader, task: Any, kit: TaskKit
) -> Summary:
    """Reads a few samples for the levels of chance, the same on every rank."""
    samples = min(CHANCE_SAMPLES, loader.samples_per_epoch)
    batch, _ = loader.maker.make(0, samples)
    parameters = parameter_counts(task.model)
    own = sum(parameter.numel() for parameter in task.parameters()) - sum(parameters.values())
    return Summary(
        command=["./launch.sh", *sys.argv[1:]],
        data={
            "run_folder": config.out,
            "samples": loader.samples_per_epoch,
            "shards": sum(len(source.shards) for source in sources),
            "steps_per_epoch": round(loader.samples_per_epoch / config.train.global_batch, 2),
            "sources": [describe_source(source) for source in sources],
        },
        parameters={**parameters, OWN_PART.get(config.task.name, "head"): own},
        weights=[str(report) for report in task.model.weight_reports],
        vocab_size=task.model.text.vocab_size,
        chance=kit.chance(task, batch),
        total_steps=count_steps(config.train, loader.samples_per_epoch),
        task=kit.facts(),
    )


def describe_source(source: Source) -> dict[str, Any]:
    """A source's counts, and how many of its records the index could not use."""
    problems = source.problems
    return {
        "source": source.spec,
        "shards": len(source.shards),
        "samples": int(source.sizes.sum()),
        "gigabytes": round(sum(shard.file_size for shard in source.shards) / 1e9, 3),
        "unusable": len(problems),
        "example": f"{problems[0].shard}: {problems[0].reason}" if problems else "",
    }
