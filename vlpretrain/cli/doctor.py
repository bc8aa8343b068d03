"""Looks at a run before it starts: its data, length, model, cost, memory, plan and problems."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch

from vlpretrain.build import (
    TaskKit,
    build_batch_maker,
    build_order,
    build_tokeniser,
    count_steps,
    open_kit,
    open_sources,
)
from vlpretrain.cli.arguments import read_doctor_options, read_run_config
from vlpretrain.cli.cost import Measured, Memory, amount, estimate_memory, measure
from vlpretrain.cli.launch import count_gpus
from vlpretrain.config.check import problems as config_problems
from vlpretrain.config.check import trains_pairs
from vlpretrain.config.deepspeed import BatchSplit, deepspeed_dict, split_batch
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.loader import BatchMaker
from vlpretrain.data.questions import read_questions
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.data.shards import Source
from vlpretrain.data.tokenise import Tokeniser
from vlpretrain.errors import UserError
from vlpretrain.models.vlmodel import parameter_counts
from vlpretrain.types import Sample, Skip

# Samples that are read, parsed and decoded; a vocabulary of so many is close to the run's own.
LOOKED_AT = 500
# Samples that FLOPs are counted on: enough for a negative of each.
COUNTED_ON = 4
SHOWN = 3


@dataclass
class Findings:
    """Prints as it goes, and collects the problems."""

    problems: list[UserError] = field(default_factory=list)

    def say(self, title: str, lines: Iterable[str]) -> None:
        print(f"\n{title}")
        for line in lines:
            print(f"  {line}", flush=True)


def doctor(arguments: Sequence[str]) -> int:
    """Prints what a run will be; returns 1 where something is wrong with it."""
    options = read_doctor_options(arguments)
    config = read_run_config(options.rest, prog="vlpretrain doctor")
    ranks = options.ranks or count_gpus() or 1
    findings = Findings()
    findings.problems += config_problems(config, ranks)
    # Looking further than a broken configuration would only say the same in other words.
    if not findings.problems:
        try:
            with tempfile.TemporaryDirectory() as folder:
                examine(config, ranks, Path(folder), findings)
        except UserError as error:
            findings.problems.append(error)
    print(f"\n{len(findings.problems)} problems" if findings.problems else "\nno problem found")
    for problem in findings.problems:
        print(f"- {problem}")
    return 1 if findings.problems else 0


def examine(config: RunConfig, ranks: int, folder: Path, findings: Findings) -> None:
    """Every look in turn, each needing what the ones before it opened.

    Args:
        folder: stands for the run's.
    """
    split = split_batch(config.train, ranks)
    sources = open_sources(config.data.train, config.data)
    if config.data.val:
        held_out = open_sources(config.data.val, config.data)
        findings.say("held-out data", [line for one in held_out for line in source_lines(one)])
    findings.say("data", [line for source in sources for line in source_lines(source)])
    findings.problems += [problem for source in sources for problem in source_problems(source)]
    tokeniser = build_tokeniser(config, sources, samples=LOOKED_AT)
    kit = open_kit(config, sources, tokeniser, folder)
    maker = build_batch_maker(config, sources, kit.recipe())
    look_at_samples(config, maker, tokeniser, findings)
    findings.say("length", length_lines(config, sources, split))
    task: Any = kit.task()
    findings.say("model", model_lines(task, kit))
    batch, _ = maker.make(0, COUNTED_ON)
    measured = measure(task, batch, config.train)
    findings.say("cost", cost_lines(measured, split))
    look_at_memory(config, task, measured, split, findings)
    plan = deepspeed_dict(config, ranks, on_gpu=count_gpus() > 0)
    findings.say("DeepSpeed", (f"{name}: {value}" for name, value in plan.items()))


# --- data -----------------------------------------------------------------------------------------


def source_lines(source: Source) -> list[str]:
    size = sum(shard.file_size for shard in source.shards)
    samples = int(source.sizes.sum())
    return [
        f"{source.spec}: {samples:,} samples, {len(source.shards):,} shards, {amount(size, 'B')}"
    ]


def source_problems(source: Source) -> list[UserError]:
    """What the index could not use: broken headers, truncated and refused members, duplicates."""
    found = [problem for shard in source.shards for problem in shard.problems]
    if not found:
        return []
    return [
        UserError(
            f"{len(found)} records can't be used\n{quoted(found)}",
            where=source.spec,
            fix="python -m data_tools validate names them all; the rest is used without them",
        )
    ]


def quoted(skips: Sequence[Skip]) -> str:
    shown = [f"    {skip.shard}/{skip.key}: {skip.reason}" for skip in skips[:SHOWN]]
    return "\n".join([*shown, f"    and {len(skips) - SHOWN} more"][: SHOWN + (len(skips) > SHOWN)])


def look_at_samples(
    config: RunConfig, maker: BatchMaker, tokeniser: Tokeniser, findings: Findings
) -> None:
    """Reads and decodes a few hundred samples, spread over the epoch."""
    looked = Look()
    for place in spread(maker.order.epoch_length, LOOKED_AT):
        looked.add(maker, place)
    lengths = [len(text.ids) for text in tokeniser.encode(looked.captions)] or [0]
    cut = sum(length > config.data.max_tokens for length in lengths) / len(lengths)
    findings.say(
        f"of {looked.seen:,} samples looked at",
        [
            f"{looked.pictures:,} with a picture, {looked.texts:,} with a text",
            f"{len(looked.captions):,} texts of {median(lengths):.0f} tokens (median), "
            f"{max(lengths)} at most; {100 * cut:.1f} % are cut at data.max_tokens",
            f"{len(looked.skips):,} could not be used",
        ],
    )
    if len(looked.skips) > config.data.max_skipped * looked.seen:
        findings.problems.append(
            UserError(
                f"{len(looked.skips)} of {looked.seen} samples can't be used\n"
                + quoted(looked.skips),
                where="data.train",
                fix="python -m data_tools validate names them all",
            )
        )
    if trains_pairs(config) and not looked.pairs:
        findings.problems.append(
            UserError("no sample has both a picture and a text", where="data.train")
        )


def spread(length: int, count: int) -> list[int]:
    """At most `count` places, evenly over `length`."""
    return (
        [index * length // count for index in range(count)] if length > count else [*range(length)]
    )


@dataclass
class Look:
    """What some samples hold."""

    seen: int = 0
    pictures: int = 0
    texts: int = 0
    pairs: int = 0
    captions: list[str] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    def add(self, maker: BatchMaker, place: int) -> None:
        (position,) = maker.order.locate(place, place + 1)
        raw = maker.reader.read(position)
        self.seen += 1
        try:
            sample = parse_sample(raw)
            maker.recipe.row(sample, position.epoch, position.source)
        except SampleError as error:
            self.skips.append(Skip(raw.shard, raw.key, str(error)))
            return
        texts = texts_of(sample)
        self.pictures += sample.image is not None
        self.texts += bool(texts)
        self.pairs += sample.image is not None and bool(texts)
        self.captions += texts


def texts_of(sample: Sample) -> list[str]:
    """Captions and questions."""
    return [*sample.captions, *(question.text for question in read_questions(sample))]


def length_lines(config: RunConfig, sources: Sequence[Source], split: BatchSplit) -> list[str]:
    samples = build_order(sources, config.data, config.train.seed).epoch_length
    steps = count_steps(config.train, samples)
    seen = steps * split.global_batch
    return [
        f"an epoch: {samples:,} samples, {samples / split.global_batch:,.1f} steps",
        f"the run: {steps:,} steps, {seen:,} samples, {seen / samples:,.2f} epochs",
        f"a step: {split.global_batch} = {split.micro_batch} at once x {split.ranks} ranks x "
        f"{split.micro_steps} micro-steps",
    ]


# --- model ----------------------------------------------------------------------------------------


def model_lines(task: Any, kit: TaskKit) -> list[str]:
    parts = parameter_counts(task.model)
    whole = sum(parameter.numel() for parameter in task.parameters())
    parts["own heads"] = whole - sum(parts.values())
    reports = [str(report) for report in task.model.weight_reports]
    counted = ", ".join(f"{part} {amount(count, '')}".rstrip() for part, count in parts.items())
    facts = [f"{name}: {value}" for name, value in kit.facts().items()]
    return [f"parameters: {counted}", *reports, *facts]


def cost_lines(measured: Measured, split: BatchSplit) -> list[str]:
    parts = ", ".join(
        f"{part} {amount(flops, 'FLOP')}" for part, flops in measured.flops_by_part.items()
    )
    alone = ", ".join(
        f"{name} {amount(flops, 'FLOP')}" for name, flops in measured.flops_alone.items()
    )
    return [
        f"a sample, forward and backward: {amount(measured.flops, 'FLOP')} ({parts})",
        *([f"each objective alone: {alone}"] if alone else []),
        f"a step, where most objectives are on: "
        f"{amount(measured.flops * split.global_batch, 'FLOP')}",
    ]


def look_at_memory(
    config: RunConfig,
    task: Any,
    measured: Measured,
    split: BatchSplit,
    findings: Findings,
) -> None:
    parameters = sum(parameter.numel() for parameter in task.parameters())

    def of_stage(stage: int) -> Memory:
        zero = replace(config.deepspeed, zero_stage=stage)  # type: ignore[arg-type]
        return estimate_memory(
            parameters,
            measured.activation_bytes,
            split.micro_batch,
            split.ranks,
            config.train,
            zero,
        )

    stages = {stage: of_stage(stage) for stage in range(4)}
    chosen = stages[config.deepspeed.zero_stage]
    others = ", ".join(f"{stage}: {amount(stages[stage].total, 'B')}" for stage in stages)
    findings.say(
        "memory of a rank, about",
        [
            f"weights {amount(chosen.weights, 'B')}, gradients {amount(chosen.gradients, 'B')}, "
            f"optimiser {amount(chosen.optimiser, 'B')}, activations "
            f"{amount(chosen.activations, 'B')}",
            f"in all, by ZeRO stage: {others} (this run: {config.deepspeed.zero_stage})",
        ],
    )
    there = available_memory(split.ranks)
    if chosen.total > there:
        findings.problems.append(
            UserError(
                f"about {amount(chosen.total, 'B')} a rank, and {amount(there, 'B')} are there",
                where="train.micro_batch",
                fix=memory_fix(chosen, config),
            )
        )


def memory_fix(memory: Memory, config: RunConfig) -> str:
    """What shrinks the larger part."""
    if memory.activations > memory.total / 2:
        return "a smaller train.micro_batch, or train.checkpoint_activations"
    return "a higher deepspeed.zero_stage with more ranks, or a smaller model"


def available_memory(ranks: int) -> float:
    """Bytes that a rank may fill: its GPU's, or its share of the machine's free memory."""
    if count_gpus():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return psutil.virtual_memory().available / ranks
