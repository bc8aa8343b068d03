"""Samples a second that one core reads from warm shards, beside webdataset's reader.

    python tests/bench/reading.py [--samples 20000] [--shards 8] [--image-bytes 4000] [--repeats 5]

Nothing is decoded: every contestant yields the bytes of a picture, a caption and a JSON record.
Process time of one thread, contestants interleaved, the minimum over the repeats.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import webdataset

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.order import SampleOrder
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.shards import Source, open_source

GLOBAL_BATCH = 256  # positions that the order is asked for at once, as the loader does


def main() -> None:
    options = parse_options()
    with tempfile.TemporaryDirectory() as folder:
        make_shards(Path(folder), options)
        start = time.process_time()
        source = open_source(folder, DataConfig(cache_dir=folder))
        indexing = time.process_time() - start
        contestants = {
            "webdataset": lambda: read_webdataset(source),
            "ours, in file order": lambda: read_ours(source, shuffle=False),
            "ours, shuffled": lambda: read_ours(source, shuffle=True),
        }
        seconds = measure(contestants, options.samples, options.repeats)
    print_table(seconds, options)
    print(f"making the index, once: {indexing / options.samples * 1e6:.1f} us a sample")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--image-bytes", type=int, default=4_000)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def make_shards(folder: Path, options: argparse.Namespace) -> None:
    image = np.random.default_rng(0).bytes(options.image_bytes)
    per_shard = -(-options.samples // options.shards)
    for first in range(0, options.samples, per_shard):
        with webdataset.TarWriter(str(folder / f"{first // per_shard:05d}.tar")) as writer:
            for number in range(first, min(first + per_shard, options.samples)):
                record = {"image_id": number, "width": 640, "height": 480}
                caption = f"a picture of the number {number}"
                key = f"{number:09d}"
                writer.write({"__key__": key, "jpg": image, "txt": caption, "json": record})


def read_webdataset(source: Source) -> int:
    paths = [shard.path for shard in source.shards]
    return sum(1 for _ in webdataset.WebDataset(paths, shardshuffle=False))


def read_ours(source: Source, shuffle: bool) -> int:
    order = SampleOrder([source.sizes.tolist()], shuffle=shuffle)
    reader = ShardReader([source])
    count = 0
    for first in range(0, order.epoch_length, GLOBAL_BATCH):
        last = min(first + GLOBAL_BATCH, order.epoch_length)
        count += len([reader.read(position) for position in order.locate(first, last)])
    return count


def measure(
    contestants: dict[str, Callable[[], int]], samples: int, repeats: int
) -> dict[str, float]:
    """Least process seconds of each contestant; a first round, not counted, warms the files."""
    best = dict.fromkeys(contestants, float("inf"))
    for turn in range(repeats + 1):
        for name, read in contestants.items():
            gc.collect()
            start = time.process_time()
            count = read()
            spent = time.process_time() - start
            assert count == samples, f"{name} read {count} of {samples} samples"
            if turn:
                best[name] = min(best[name], spent)
    return best


def print_table(seconds: dict[str, float], options: argparse.Namespace) -> None:
    print(
        f"{options.samples} samples of {options.image_bytes} bytes + txt + json in "
        f"{options.shards} warm shards; {platform.machine()}, {os.cpu_count()} cores, "
        f"python {platform.python_version()}, webdataset {webdataset.__version__}"
    )
    print(f"{'reader':<22}{'samples/s a core':>18}{'us a sample':>14}{'ratio':>8}")
    for name, spent in seconds.items():
        rate, ratio = options.samples / spent, seconds["webdataset"] / spent
        print(f"{name:<22}{rate:>18,.0f}{spent / options.samples * 1e6:>14.1f}{ratio:>8.1f}")


if __name__ == "__main__":
    main()
