"""The words of a scene: captions and question-answer pairs, all true of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

from data_tools.scenes import COLOURS, RELATIONS, SHAPES, Relation, Scene, SceneObject, relations

NUMBERS = ("no", "one", "two", "three", "four")


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its one answer; `kind` names what it asks about."""

    kind: str
    text: str
    answer: str


def scene_captions(scene: Scene, random: Random) -> list[str]:
    """Five captions. The first, second, fourth and fifth name every object; the third needn't."""
    return [
        _list_caption(scene, random),
        _chain_caption(scene, random),
        _partial_caption(scene, random),
        _count_caption(scene, random),
        _place_caption(scene, random),
    ]


def scene_questions(scene: Scene, random: Random) -> list[Question]:
    """At most one question of each kind; those that the scene answers without doubt."""
    asked = [
        _ask_colour(scene, random),
        _ask_shape(scene, random),
        _ask_size(scene, random),
        _ask_count(scene, random),
        _ask_existence(scene, random),
        _ask_neighbour(scene, random),
        _ask_relation(scene, random),
    ]
    return [question for question in asked if question is not None]


def _list_caption(scene: Scene, random: Random) -> str:
    names = [_a(item.full_name) for item in _shuffled(scene.objects, random)]
    if len(names) == 1:
        return f"{names[0]} {scene.objects[0].place}"
    return _join(names)


def _chain_caption(scene: Scene, random: Random) -> str:
    """Every object is placed by the one before it: "A left of B, B above C"."""
    order = _shuffled(scene.objects, random)
    if len(order) == 1:
        return f"there is only {_a(order[0].full_name)} {order[0].place}"
    known = relations(scene)
    links = []
    for first, second in zip(order, order[1:], strict=False):
        kinds = [link.kind for link in known if link.first == first and link.second == second]
        links.append(f"the {first.name} is {random.choice(kinds)} the {second.name}")
    return " and ".join(links)


def _partial_caption(scene: Scene, random: Random) -> str:
    """One relation, or how many there are of each shape: true, but of other scenes too."""
    known = relations(scene)
    if known and random.random() < 0.5:
        link = random.choice(known)
        return f"{_a(link.first.full_name)} {link.kind} {_a(link.second.full_name)}"
    counts = Counter(item.shape for item in _shuffled(scene.objects, random))
    return _join([_counted(count, shape) for shape, count in counts.items()])


def _count_caption(scene: Scene, random: Random) -> str:
    names = [_a(item.full_name) for item in _shuffled(scene.objects, random)]
    return f"{_counted(len(names), 'object')}: {_join(names)}"


def _place_caption(scene: Scene, random: Random) -> str:
    items = _shuffled(scene.objects, random)
    return _join([f"{_a(item.name)} {item.place}" for item in items])


def _ask_colour(scene: Scene, random: Random) -> Question | None:
    item = _one_of_its(scene, "shape", random)
    if item is None:
        return None
    return Question("colour", f"what colour is the {item.shape}?", item.colour)


def _ask_shape(scene: Scene, random: Random) -> Question | None:
    item = _one_of_its(scene, "colour", random)
    if item is None:
        return None
    return Question("shape", f"what shape is the {item.colour} object?", item.shape)


def _ask_size(scene: Scene, random: Random) -> Question:
    # Evenly over the sizes there are: large objects find room less often.
    size = random.choice(sorted({item.size for item in scene.objects}))
    item = random.choice([item for item in scene.objects if item.size == size])
    return Question("size", f"is the {item.name} small or large?", item.size)


def _ask_count(scene: Scene, random: Random) -> Question:
    attribute = random.choice(("object", "colour", "shape"))
    if attribute == "object":
        return Question("count", "how many objects are there?", str(len(scene.objects)))
    counts = Counter(_value(item, attribute) for item in scene.objects)
    pool = COLOURS if attribute == "colour" else SHAPES
    # Evenly over the numbers that the scene can answer with: "one" would win otherwise.
    number = random.choice(sorted({counts[value] for value in pool}))
    value = random.choice([value for value in pool if counts[value] == number])
    things = f"{value} objects" if attribute == "colour" else _plural(value)
    return Question("count", f"how many {things} are there?", str(number))


def _ask_existence(scene: Scene, random: Random) -> Question:
    """Half of the answers are yes; a false object has a colour or a shape of the scene."""
    item = random.choice(scene.objects)
    if random.random() < 0.5:
        return Question("existence", f"is there {_a(item.name)}?", "yes")
    present = {other.name for other in scene.objects}
    near = [f"{item.colour} {shape}" for shape in SHAPES]
    near += [f"{colour} {item.shape}" for colour in COLOURS]
    name = random.choice([name for name in near if name not in present])
    return Question("existence", f"is there {_a(name)}?", "no")


def _ask_neighbour(scene: Scene, random: Random) -> Question | None:
    """What stands on one side of an object, where one thing alone does."""
    known = relations(scene)
    sides = Counter((link.kind, link.second) for link in known)
    single = [link for link in known if sides[link.kind, link.second] == 1]
    if not single:
        return None
    link = random.choice(single)
    attribute = random.choice(("colour", "shape"))
    asked = "shape is" if attribute == "shape" else "colour is the object"
    text = f"what {asked} {link.kind} the {link.second.name}?"
    return Question("neighbour", text, _value(link.first, attribute))


def _ask_relation(scene: Scene, random: Random) -> Question | None:
    """Half of the answers are yes; a false relation is the opposite of one that holds."""
    known = relations(scene)
    if not known:
        return None
    link = random.choice(known)
    if random.random() < 0.5:
        return Question("relation", _asked(link), "yes")
    opposite = RELATIONS[RELATIONS.index(link.kind) ^ 1]
    return Question("relation", _asked(Relation(link.first, opposite, link.second)), "no")


def _asked(link: Relation) -> str:
    return f"is the {link.first.name} {link.kind} the {link.second.name}?"


def _one_of_its(scene: Scene, attribute: str, random: Random) -> SceneObject | None:
    """An object whose colour (or shape) no other object has."""
    counts = Counter(_value(item, attribute) for item in scene.objects)
    single = [item for item in scene.objects if counts[_value(item, attribute)] == 1]
    return random.choice(single) if single else None


def _value(item: SceneObject, attribute: str) -> str:
    return item.colour if attribute == "colour" else item.shape


def _shuffled(items: tuple[SceneObject, ...], random: Random) -> list[SceneObject]:
    return random.sample(items, len(items))


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _plural(noun: str) -> str:
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def _counted(count: int, noun: str) -> str:
    return f"{NUMBERS[count]} {noun if count == 1 else _plural(noun)}"


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
