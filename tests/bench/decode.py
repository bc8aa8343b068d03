"""JPEG to a crop of 224 pixels, beside plain Pillow: time, and distance in grey levels.

    python tests/bench/decode.py [FOLDER] [--pictures 20] [--repeats 7]

Pictures are photo-like noise at several scales, or the .jpg files of FOLDER resampled to the given
size; JPEG quality 90. Plain Pillow decodes all, crops, and resizes with its bicubic filter.
Process time of one thread, contestants interleaved picture by picture, the minimum over the
repeats. The centre crop is the middle square; a random crop takes 50 to 100 % of the area.
"""

from __future__ import annotations

import argparse
import functools
import io
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import simplejpeg
import torch
from PIL import Image

from vlpretrain.data.decode import Box, decode_crop, jpeg_scale, snap
from vlpretrain.data.keyed import generator
from vlpretrain.data.transforms import centre_box, random_box

SIZE = 224
NO_LIMIT = 1 << 40

# Takes the JPEG and the box, gives uint8 [224, 224, 3] or [3, 224, 224].
Contestant = Callable[[bytes, Box], np.ndarray]


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    photos = make_photos(options)
    print(
        f"{len(photos)} JPEGs of {options.width}x{options.height}, "
        f"{np.mean([len(photo) for photo in photos]) / 1000:.0f} kB on average; "
        f"{platform.processor() or platform.machine()}, one thread; torch {torch.__version__}, "
        f"Pillow {PIL.__version__}, simplejpeg {simplejpeg.__version__}"
    )
    boxes = [centre_box(options.height, options.width)] * len(photos)
    report("centre crop", photos, boxes, options.repeats)
    boxes = [draw_box(options.height, options.width, number) for number in range(len(photos))]
    report("random crop", photos, boxes, options.repeats)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1024)
    return parser.parse_args()


def make_photos(options: argparse.Namespace) -> list[bytes]:
    size = (options.width, options.height)
    if options.folder is None:
        pictures = [noise(size, seed) for seed in range(options.pictures)]
    else:
        paths = sorted(options.folder.rglob("*.jpg"))[: options.pictures]
        pictures = [Image.open(path).convert("RGB") for path in paths]
        pictures = [picture.resize(size, Image.Resampling.LANCZOS) for picture in pictures]
    return [jpeg(picture) for picture in pictures]


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth noise whose strength falls with its frequency, as a photo's does."""
    random = np.random.default_rng(seed)
    total_HWC = np.zeros((size[1], size[0], 3))
    weights = {4: 8, 16: 4, 64: 2, 256: 1}
    for cells, weight in weights.items():
        cell_HWC = random.integers(0, 255, (cells * 3 // 4, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(cell_HWC).resize(size, Image.Resampling.BICUBIC)
        total_HWC += weight * np.asarray(layer, dtype=float)
    return Image.fromarray((total_HWC / sum(weights.values())).astype(np.uint8))


def jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def draw_box(height: int, width: int, number: int) -> Box:
    box = random_box(height, width, (0.5, 1.0), generator(0, 0, str(number), "crop"))
    return snap(box, height, width, jpeg_scale(box, SIZE))


def pillow_full(photo: bytes, box: Box) -> np.ndarray:
    region = Image.open(io.BytesIO(photo)).crop(corners(box))
    return np.asarray(region.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def pillow_draft(photo: bytes, box: Box) -> np.ndarray:
    """Pillow's own scaled decoding, the region mapped to the scaled picture."""
    picture = Image.open(io.BytesIO(photo))
    full_width = picture.width
    scale = min(box.height, box.width) / SIZE
    picture.draft("RGB", (int(picture.width / scale), int(picture.height / scale)))
    shrunk = picture.width / full_width
    scaled = tuple(edge * shrunk for edge in corners(box))
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=scaled))


def ours(photo: bytes, box: Box, *, fast: bool) -> np.ndarray:
    def choose_box(height: int, width: int) -> Box:
        return box

    return decode_crop(photo, SIZE, choose_box, max_pixels=NO_LIMIT, fast=fast).numpy()


def corners(box: Box) -> tuple[int, int, int, int]:
    return box.left, box.top, box.left + box.width, box.top + box.height


CONTESTANTS: dict[str, Contestant] = {
    "Pillow, full decode": pillow_full,
    "Pillow, draft": pillow_draft,
    "ours, exact": functools.partial(ours, fast=False),
    "ours, fast": functools.partial(ours, fast=True),
}


def report(title: str, photos: list[bytes], boxes: list[Box], repeats: int) -> None:
    seconds = measure(photos, boxes, repeats)
    plain, full = (seconds["Pillow, full decode"], pictures_of(pillow_full, photos, boxes))
    print(f"\n{title:22}{'ms':>8}{'times':>8}{'mean difference, grey levels':>32}")
    for name, contestant in CONTESTANTS.items():
        distance = np.abs(pictures_of(contestant, photos, boxes) - full).mean()
        milliseconds = seconds[name] / len(photos) * 1000
        print(f"{name:22}{milliseconds:8.2f}{plain / seconds[name]:8.2f}{distance:32.2f}")


def measure(photos: list[bytes], boxes: list[Box], repeats: int) -> dict[str, float]:
    """Seconds for all pictures: for each, the minimum over the repeats."""
    best = {name: np.full(len(photos), np.inf) for name in CONTESTANTS}
    for _ in range(repeats):
        for place, (photo, box) in enumerate(zip(photos, boxes, strict=True)):
            for name, contestant in CONTESTANTS.items():
                start = time.process_time()
                contestant(photo, box)
                best[name][place] = min(best[name][place], time.process_time() - start)
    return {name: float(times.sum()) for name, times in best.items()}


def pictures_of(contestant: Contestant, photos: list[bytes], boxes: list[Box]) -> np.ndarray:
    """All pictures as [pictures, 224, 224, 3], signed for differences."""
    crops = [contestant(photo, box) for photo, box in zip(photos, boxes, strict=True)]
    upright = [crop.transpose(1, 2, 0) if crop.shape[0] == 3 else crop for crop in crops]
    return np.stack(upright).astype(np.int16)


if __name__ == "__main__":
    main()
