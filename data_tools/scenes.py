"""The scenes of the embedded data set: what stands where. No drawing, no words.

Coordinates are shares of the picture's side (0 to 1, y downwards), so that a scene is the same at
any picture size.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import permutations
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (240, 212, 0),
    "green": (34, 139, 34),
    "cyan": (0, 200, 210),
    "blue": (30, 70, 220),
    "purple": (145, 40, 190),
    "black": (25, 25, 25),
}
# The smallest and largest side of an object, as a share of the picture's.
SIZES = {"small": (0.17, 0.22), "large": (0.32, 0.38)}
BACKGROUNDS = ((250, 250, 250), (240, 240, 236), (232, 238, 246), (246, 236, 228), (232, 244, 232))
RELATIONS = ("left of", "right of", "above", "below")

# How many objects a scene has, and how often.
COUNT_WEIGHTS = {1: 6, 2: 30, 3: 37, 4: 27}
# Chance that an object repeats a colour (or a shape) of the scene, so that counts vary.
REPEAT = 0.25
# Free space between any two objects and around the border.
GAP = 0.025
# Of every ten descriptions, which are whose.
SPLITS = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape. (x, y) is the centre, `side` that of its square box; all shares of the picture."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    side: float

    @property
    def name(self) -> str:
        """Unique in its scene."""
        return f"{self.colour} {self.shape}"

    @property
    def full_name(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        half = self.side / 2
        return self.x - half, self.y - half, self.x + half, self.y + half

    @property
    def place(self) -> str:
        """Which ninth of the picture the centre is in."""
        row = ("top", "", "bottom")[min(int(self.y * 3), 2)]
        column = ("left", "", "right")[min(int(self.x * 3), 2)]
        if row and column:
            return f"at the {row} {column}"
        if row:
            return f"at the {row}"
        return f"on the {column}" if column else "in the middle"


@dataclass(frozen=True, slots=True)
class Relation:
    """`first` is `kind` `second`: their boxes are apart along that axis."""

    first: SceneObject
    kind: str
    second: SceneObject


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects that don't overlap, no two with the same colour and shape, on a pale background."""

    objects: tuple[SceneObject, ...]
    background: tuple[int, int, int]

    @property
    def description(self) -> str:
        """What the scene holds, whatever the order and the places: decides its split."""
        return ", ".join(sorted(item.full_name for item in self.objects))


def draw_scene(seed: int, split: str, index: int) -> Scene:
    """Scene number `index` of a split: a pure function of its arguments.

    No description of one split occurs in another: a drawn scene that belongs elsewhere is drawn
    again.
    """
    random = Random(f"scene/{seed}/{split}/{index}")
    while True:
        scene = _place_objects(_draw_kinds(random), random)
        if scene is not None and split_of(scene) == split:
            return scene


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to, whatever the seed."""
    digest = hashlib.blake2b(scene.description.encode(), digest_size=8).digest()
    tenth = int.from_bytes(digest, "little") % 10
    return next(name for name, tenths in SPLITS.items() if tenth in tenths)


def relations(scene: Scene) -> list[Relation]:
    """Every spatial relation that holds between two objects of the scene."""
    return [
        Relation(first, kind, second)
        for first, second in permutations(scene.objects, 2)
        for kind in RELATIONS
        if holds(first.box, kind, second.box)
    ]


def holds(
    first: tuple[float, float, float, float],
    kind: str,
    second: tuple[float, float, float, float],
) -> bool:
    """Whether box `first` is wholly `kind` box `second`."""
    match kind:
        case "left of":
            return first[2] <= second[0]
        case "right of":
            return first[0] >= second[2]
        case "above":
            return first[3] <= second[1]
        case "below":
            return first[1] >= second[3]
        case _:
            raise ValueError(f"unknown relation {kind!r}; known are {RELATIONS}")


def _draw_kinds(random: Random) -> list[tuple[str, str, str]]:
    """Size, colour and shape of every object; no colour and shape twice."""
    count = random.choices(list(COUNT_WEIGHTS), weights=list(COUNT_WEIGHTS.values()))[0]
    kinds: list[tuple[str, str, str]] = []
    while len(kinds) < count:
        colour, shape = random.choice(list(COLOURS)), random.choice(SHAPES)
        if kinds and random.random() < REPEAT:
            colour = random.choice(kinds)[1]
        if kinds and random.random() < REPEAT:
            shape = random.choice(kinds)[2]
        if (colour, shape) not in [kind[1:] for kind in kinds]:
            kinds.append((random.choice(list(SIZES)), colour, shape))
    return kinds


def _place_objects(kinds: list[tuple[str, str, str]], random: Random) -> Scene | None:
    """Drops the objects one by one where there is room; None when one finds none."""
    background = random.choice(BACKGROUNDS)
    placed: list[SceneObject] = []
    for size, colour, shape in kinds:
        side = random.uniform(*SIZES[size])
        for _ in range(40):
            margin = side / 2 + GAP
            x, y = random.uniform(margin, 1 - margin), random.uniform(margin, 1 - margin)
            item = SceneObject(shape, colour, size, x, y, side)
            if all(_apart(item, other) for other in placed):
                placed.append(item)
                break
        else:
            return None
    return Scene(tuple(placed), background)


def _apart(first: SceneObject, second: SceneObject) -> bool:
    distance = max(math.fabs(first.x - second.x), math.fabs(first.y - second.y))
    return distance >= (first.side + second.side) / 2 + GAP
