"""Recall both ways from embeddings, beside a slow and obvious reference that sorts.

    python -m tests.bench.recall [--pictures 5000] [--captions 5] [--width 256] [--threads 2]

Embeddings are random whole numbers, so that every dot product is exact and ties are many: both must
find the same rank for every query. Wall time and the processor's, all threads; ours is the quickest
of the repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlpretrain.metrics.retrieval import (
    SameGroup,
    median_of_ranks,
    rank_from_embeddings,
    recall_of_ranks,
)

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Direction:
    name: str
    query_QE: Tensor
    candidate_CE: Tensor
    groups: SameGroup


@dataclass(frozen=True, slots=True)
class Timed:
    rank_Q: Tensor
    seconds: float
    processor_seconds: float


def main() -> None:
    options = parse_options()
    torch.set_num_threads(options.threads)
    print(
        f"torch {torch.__version__}, {options.threads} threads of {os.cpu_count()}"
        f" ({platform.machine()}), load {os.getloadavg()[0]:.1f}\n{options.pictures} pictures,"
        f" {options.pictures * options.captions} captions, width {options.width}\n"
    )
    print(
        "| direction | contestant | s | s of processor | R@1 | R@5 | R@10 | median rank |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    total = processor_total = 0.0
    for direction in make_directions(options):
        ours = min((timed(by_chunks, direction) for _ in range(options.repeats)), key=seconds_of)
        print_row(direction.name, "ours", ours)
        total += ours.seconds
        processor_total += ours.processor_seconds
        if not options.skip_reference:
            reference = timed(by_sorting, direction)
            print_row(direction.name, "sorting, query by query", reference)
            assert torch.equal(ours.rank_Q, reference.rank_Q), "a rank differs"
    print(f"\nours, both ways: {total:.2f} s, {processor_total:.2f} s of processor")
    if not options.skip_reference:
        print("the rank of every query equals the reference's")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5, help="a picture")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-reference", action="store_true")
    return parser.parse_args()


def make_directions(options: argparse.Namespace) -> list[Direction]:
    """A caption is its picture's -1, 0 and 1, most of them replaced."""
    generator = torch.Generator().manual_seed(0)
    image_id = torch.arange(options.pictures)
    text_image_id = image_id.repeat_interleave(options.captions)

    def random_signs(rows: int) -> Tensor:
        return torch.randint(-1, 2, (rows, options.width), generator=generator).float()

    image_IE = random_signs(options.pictures)
    kept = torch.rand(len(text_image_id), options.width, generator=generator) < 0.25
    text_TE = torch.where(kept, image_IE[text_image_id], random_signs(len(text_image_id)))
    return [
        Direction("image to text", image_IE, text_TE, SameGroup(image_id, text_image_id)),
        Direction("text to image", text_TE, image_IE, SameGroup(text_image_id, image_id)),
    ]


def by_chunks(direction: Direction) -> Tensor:
    return rank_from_embeddings(direction.query_QE, direction.candidate_CE, direction.groups)


def by_sorting(direction: Direction) -> Tensor:
    """Sorts all candidates, wrong ones first among equals, and looks for the first right one."""
    candidate_CE = direction.candidate_CE.numpy()
    group_C = direction.groups.candidate_C.numpy()
    ranks = []
    for query_E, group in zip(
        direction.query_QE.numpy(), direction.groups.query_Q.tolist(), strict=True
    ):
        right_C = group_C == group
        order_C = np.lexsort((right_C, -(candidate_CE @ query_E)))
        ranks.append(int(right_C[order_C].argmax()) + 1)
    return torch.tensor(ranks)


def timed(contestant: Callable[[Direction], Tensor], direction: Direction) -> Timed:
    start, processor_start = time.perf_counter(), time.process_time()
    rank_Q = contestant(direction)
    return Timed(rank_Q, time.perf_counter() - start, time.process_time() - processor_start)


def seconds_of(result: Timed) -> float:
    return result.seconds


def print_row(direction: str, contestant: str, result: Timed) -> None:
    recall = recall_of_ranks(result.rank_Q, RECALL_AT)
    shares = " | ".join(f"{recall[k]:.2%}" for k in RECALL_AT)
    median = median_of_ranks(result.rank_Q)
    times = f"{result.seconds:.2f} | {result.processor_seconds:.2f}"
    print(f"| {direction} | {contestant} | {times} | {shares} | {median:g} |")


if __name__ == "__main__":
    main()
