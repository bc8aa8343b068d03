"""How many pictures and texts the data sets' authors publish, by split, to check a download."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Published:
    """None where no figure is known for sure."""

    pictures: int | None
    texts: int | None


# By the data set and its split. A split of several words is named by all of them.
PUBLISHED: dict[str, dict[str, Published]] = {
    # visualqa.org/download.html; Goyal et al. 2017
    "vqav2": {
        "train": Published(82_783, 443_757),
        "val": Published(40_504, 214_354),
        "test-dev": Published(None, 107_394),
        "test": Published(81_434, 447_793),
    },
    # Hudson and Manning 2019, the balanced questions
    "gqa": {
        "train_balanced": Published(72_140, 943_000),
        "val_balanced": Published(10_234, 132_062),
        "testdev_balanced": Published(398, 12_578),
        "test_balanced": Published(2_987, 95_336),
    },
    # vizwiz.org, the version of 2020 and later
    "vizwiz": {
        "train": Published(20_523, 20_523),
        "val": Published(4_319, 4_319),
        "test": Published(8_000, 8_000),
    },
    "easy_vqa": {"train": Published(4_000, 38_575), "test": Published(1_000, 9_673)},
    # Sentences with a picture, as the released files list them; each has up to six orders.
    "nlvr": {"dev": Published(None, 989), "test": Published(None, 990)},
    # Suhr, Zhou et al. 2019
    "nlvr2": {
        "train": Published(None, 86_373),
        "dev": Published(None, 6_982),
        "test1": Published(None, 6_967),
    },
    # Karpathy and Fei-Fei 2015 ("restval" counted as train), and COCO's own files
    "coco": {
        "train": Published(113_287, 566_747),
        "val": Published(5_000, 25_010),
        "test": Published(5_000, 25_010),
        "train2014": Published(82_783, 414_113),
        "val2014": Published(40_504, 202_654),
        "train2017": Published(118_287, 591_753),
        "val2017": Published(5_000, 25_014),
    },
    # Karpathy and Fei-Fei 2015; "all": Young et al. 2014
    "flickr30k": {
        "train": Published(29_000, 145_000),
        "val": Published(1_014, 5_070),
        "test": Published(1_000, 5_000),
        "all": Published(31_783, 158_915),
    },
    # Hodosh et al. 2013
    "flickr8k": {
        "train": Published(6_000, 30_000),
        "val": Published(1_000, 5_000),
        "dev": Published(1_000, 5_000),
        "test": Published(1_000, 5_000),
        "all": Published(8_092, 40_460),
    },
}


def recognise_split(data_set: str, *paths: Path) -> str:
    """The split that a file's name speaks of, or that its folder is called; "" for none, or two."""
    splits = PUBLISHED.get(data_set, {})
    for path in paths:
        words = _words(path.stem)
        found = [split for split in splits if _words(split) <= words]
        if not found and path.resolve().parent.name in splits:
            found = [path.resolve().parent.name]
        if len(found) == 1:
            return found[0]
    return ""


def check_published(data_set: str, split: str, pictures: int, texts: int, what: str) -> str:
    """A line that says whether a split has as many pictures and texts as its authors publish."""
    counted = f"{texts:,} {what} over {pictures:,} pictures"
    published = PUBLISHED.get(data_set, {}).get(split)
    if published is None:
        return f"{split}: {counted}" if split else counted
    compared = [(what, texts, published.texts), ("pictures", pictures, published.pictures)]
    differing = [
        f"{number:,} {kind}" for kind, count, number in compared if number not in (None, count)
    ]
    if differing:
        return f"warning: {split}: {counted}; published are {' and '.join(differing)}"
    return f"{split}: {counted}, as published"


def _words(name: str) -> set[str]:
    """Lower case, with their numbers; "trainImages" is two."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
    return set(re.findall(r"[a-z]+\d*", parted))
