"""Times a training step of this project beside the plain way of the same four objectives, and
beside FLAVA and CoCa. Prints Markdown.

    python -m tests.bench.step --preset small --precision bf16
    python -m tests.bench.step --preset peers

A step is forward and backward of one batch; the optimiser is left out for everyone. All get the
same batch in one process, in turns; the figure is the smallest process time of the repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import tyro
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.plain_way import PlainWay, Savings
from tests.bench.step_batch import Sizes, make_batch
from tests.bench.step_ours import Recipe, ours
from tests.bench.step_peers import COCA, FLAVA, peers
from vlpretrain.types import Batch

PLAIN = "the plain way"
SMALL = Sizes(image_size=224, batch=12, image_depth=12)
PEERS = Sizes(image_size=128, batch=8, image_depth=6)
# What a saving is called in the table, in the order in which they are added up. Keys and values
# can be shared by all pairs only once these are one call.
SAVINGS = {
    "trimmed_captions": "+ captions as long as the longest, not 30",
    "head_on_hidden_words": "+ vocabulary head on hidden words only",
    "last_layer_for_read": "+ last fusion layer for the positions read",
    "joint_calls": "+ one text call, one fusion call",
    "keys_once_an_image": "+ image keys and values once an image",
    "shared_image_pass": "+ one masked image pass for all objectives",
}


@dataclass(frozen=True)
class Options:
    """What is timed."""

    preset: Literal["small", "peers"] = "small"
    """small: ViT-small/16 at 224 px, 6 + 6 layers of text and fusion, against the plain way;
    peers: 128 px, 6 layers each, against FLAVA and CoCa."""
    precision: Literal["bf16", "fp32"] = "fp32"
    """Of weights and computation, for every contestant."""
    ablation: bool = False
    """Also the plain way with one saving after the other (small)."""
    compiled: bool = False
    """Also ours with torch.compile on its blocks, which takes minutes to compile (small)."""
    repeats: int = 3
    """Turns; the smallest time counts."""
    threads: int = 1
    """Of torch."""
    batch: int = 0
    """Pairs of a batch; 0: 12 (small) or 8 (peers)."""
    dropout: float = 0.0
    """In text tower and fusion of ours and the plain way; the peers have none by default."""


@dataclass(frozen=True)
class Contestant:
    """A model under training and the batch that it gets."""

    model: nn.Module
    batch: Batch
    loss: Callable[[nn.Module, Batch], torch.Tensor]


@dataclass(frozen=True)
class Result:
    """A contestant's step."""

    seconds: float
    gflops: float
    parameters: int
    loss: float


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    sizes = _sizes(options)
    builders = _builders(options, sizes)
    contestants = {name: _prepare(build(), options) for name, build in builders.items()}
    results = measure(contestants, options.repeats)
    print(f"torch {torch.__version__}, CPU, {options.threads} thread(s), {options}\n")
    bases = [PLAIN] if options.preset == "small" else [FLAVA, COCA]
    print(comparison_table(results, sizes.batch, bases))
    if options.ablation and options.preset == "small":
        print("\n" + savings_table(results))


def measure(contestants: dict[str, Contestant], repeats: int) -> dict[str, Result]:
    """One counted warm-up each, then the repeats in turns."""
    counted = {name: _count(contestant) for name, contestant in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            start = time.process_time()
            _step(contestant)
            seconds[name].append(time.process_time() - start)
    return {name: replace(counted[name], seconds=min(seconds[name])) for name in contestants}


def comparison_table(results: dict[str, Result], batch: int, bases: list[str]) -> str:
    """Every contestant, and how its time and FLOPs compare with those of each of `bases`."""
    head = ["step", "ms", "samples/s", "GFLOP a pair", "M weights", "loss"]
    for base in bases:
        head += [f"times faster than {base}", "times fewer FLOPs"]
    lines = [head, ["---"] * len(head)]
    for name, result in results.items():
        line = [
            name,
            f"{1000 * result.seconds:,.0f}",
            f"{batch / result.seconds:.2f}",
            f"{result.gflops / batch:.1f}",
            f"{result.parameters / 1e6:.1f}",
            f"{result.loss:.3f}",
        ]
        for base in bases:
            line.append(f"{results[base].seconds / result.seconds:.2f}")
            line.append(f"{results[base].gflops / result.gflops:.2f}")
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def savings_table(results: dict[str, Result]) -> str:
    """What each saving takes off the plain way's whole when it is added to those above it."""
    whole = before = results[PLAIN]
    lines = ["| saving | time off | FLOPs off |", "|---|---|---|"]
    for title in SAVINGS.values():
        after = results[title]
        time_off = (before.seconds - after.seconds) / whole.seconds
        flops_off = (before.gflops - after.gflops) / whole.gflops
        lines.append(f"| {title} | {100 * time_off:.1f} % | {100 * flops_off:.1f} % |")
        before = after
    return "\n".join(lines)


def _sizes(options: Options) -> Sizes:
    sizes = SMALL if options.preset == "small" else PEERS
    return replace(sizes, batch=options.batch or sizes.batch, dropout=options.dropout)


def _builders(options: Options, sizes: Sizes) -> dict[str, Callable[[], Contestant]]:
    """By the name in the table; the first is what the others are compared with."""
    batch = make_batch(sizes)
    if options.preset == "peers":
        found = {name: _peer(build, batch) for name, build in peers(sizes).items()}
        found[PLAIN] = _plain(sizes, batch, Savings())
        return found | _own_recipes(sizes, batch) | _fewer_objectives(sizes, batch)
    found = {PLAIN: _plain(sizes, batch, Savings())}
    if options.ablation:
        savings = Savings()
        for name, title in SAVINGS.items():
            savings = replace(savings, **{name: True})
            found[title] = _plain(sizes, batch, savings)
    found |= _own_recipes(sizes, batch)
    if options.compiled:
        found["ours, masked pass shared, compiled"] = _own(sizes, batch, Recipe(), compiled=True)
    return found


def _own_recipes(sizes: Sizes, batch: Batch) -> dict[str, Callable[[], Contestant]]:
    half = replace(sizes, mask_ratio=0.5)
    return {
        "ours, two image passes (exact)": _own(sizes, batch, Recipe(shared=False)),
        "ours, masked pass shared": _own(sizes, batch, Recipe()),
        "ours, 50 % visible tokens": _own(half, make_batch(half), Recipe(visible=True)),
    }


def _fewer_objectives(sizes: Sizes, batch: Batch) -> dict[str, Callable[[], Contestant]]:
    """On whole pictures. CoCa has two objectives as well: contrast and predicting words."""
    return {
        "ours, ITC + ITM + MLM": _own(sizes, batch, Recipe(("itm", "itc", "mlm"))),
        "ours, ITC + MLM": _own(sizes, batch, Recipe(("itc", "mlm"))),
    }


def _peer(build: Callable[[], nn.Module], batch: Batch) -> Callable[[], Contestant]:
    return lambda: Contestant(build(), batch, lambda model, rows: model(rows))


def _plain(sizes: Sizes, batch: Batch, savings: Savings) -> Callable[[], Contestant]:
    # Written-out attention, as ours: the fused one has a slow backward on a CPU.
    return _peer(lambda: PlainWay(sizes, savings, plain_attention=True), batch)


def _own(
    sizes: Sizes, batch: Batch, recipe: Recipe, compiled: bool = False
) -> Callable[[], Contestant]:
    def build() -> Contestant:
        task = ours(sizes, recipe)
        if compiled:
            task.model.compile_blocks()
        return Contestant(task, batch, lambda model, rows: model(rows).loss)

    return build


def _prepare(contestant: Contestant, options: Options) -> Contestant:
    contestant.model.train()
    if options.precision == "bf16":
        contestant.model.to(torch.bfloat16)
    return contestant


def _count(contestant: Contestant) -> Result:
    torch.manual_seed(0)
    with FlopCounterMode(display=False) as counter:
        loss = _step(contestant)
    parameters = sum(item.numel() for item in contestant.model.parameters())
    return Result(float("inf"), counter.get_total_flops() / 1e9, parameters, loss)


def _step(contestant: Contestant) -> float:
    loss = contestant.loss(contestant.model, contestant.batch)
    loss.backward()
    contestant.model.zero_grad(set_to_none=True)
    return float(loss.detach())


if __name__ == "__main__":
    main()
