"""The embedded data set: reproducible, disjoint between splits, and true in every word."""

import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from data_tools.drawing import draw_png
from data_tools.scene_texts import scene_captions, scene_questions
from data_tools.scenes import COLOURS, SHAPES, draw_scene, relations
from data_tools.synth import SynthOptions, render_sample, synthesise
from vlpretrain.errors import UserError

COLOUR, SHAPE = "|".join(COLOURS), "|".join(SHAPES)
NAME = rf"(?:{COLOUR}) (?:{SHAPE})"
KIND = "left of|right of|above|below"
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}


def record_of(index: int, split: str = "train") -> dict:
    return json.loads(render_sample(index, SynthOptions(samples=1, split=split))["json"])


def objects_of(record: dict) -> dict[str, dict]:
    return {f"{item['colour']} {item['shape']}": item for item in record["scene"]["objects"]}


def is_so(first: dict, kind: str, second: dict) -> bool:
    """Recomputed from the boxes: left, top, right, bottom."""
    one, two = first["box"], second["box"]
    return {
        "left of": one[2] <= two[0],
        "right of": one[0] >= two[2],
        "above": one[3] <= two[1],
        "below": one[1] >= two[3],
    }[kind]


def digests(folder: Path) -> dict[str, str]:
    tars = sorted(folder.glob("*.tar"))
    return {tar.name: hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "shards"
    options = SynthOptions(samples=25, shard_size=10, image_size=48)
    assert synthesise(out, options, overwrite=False, workers=1) == 3
    return out


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(shards, tmp_path):
    options = SynthOptions(samples=25, shard_size=10, image_size=48)
    synthesise(tmp_path / "again", options, overwrite=False, workers=2)
    assert digests(tmp_path / "again") == digests(shards)


def test_a_longer_data_set_begins_with_the_shorter_one(shards, tmp_path):
    options = SynthOptions(samples=30, shard_size=10, image_size=48)
    synthesise(tmp_path / "longer", options, overwrite=False, workers=1)
    shorter, longer = digests(shards), digests(tmp_path / "longer")
    assert list(shorter.items())[:2] == list(longer.items())[:2]
    assert shorter["train-000002.tar"] != longer["train-000002.tar"]


def test_another_seed_and_another_split_give_other_scenes():
    scenes = [draw_scene(0, "train", 0), draw_scene(1, "train", 0), draw_scene(0, "val", 0)]
    assert len({scene.description for scene in scenes}) == 3


def test_no_description_occurs_in_two_splits():
    seen = {
        split: {
            draw_scene(seed, split, index).description for seed in (0, 1) for index in range(400)
        }
        for split in ("train", "val", "test")
    }
    assert not seen["train"] & seen["val"]
    assert not seen["train"] & seen["test"]
    assert not seen["val"] & seen["test"]


def test_first_captions_tell_two_hundred_unseen_scenes_nearly_apart():
    first = [scene_captions(draw_scene(0, "val", i), Random(i))[0] for i in range(200)]
    shared = sum(count for count in Counter(first).values() if count > 1)
    assert shared <= 16


def test_objects_are_apart_large_enough_and_inside():
    for index in range(200):
        scene = draw_scene(0, "train", index)
        for item in scene.objects:
            assert 0.15 <= item.side <= 0.4
            assert min(item.box) >= 0
            assert max(item.box) <= 1
        pairs = len(scene.objects) * (len(scene.objects) - 1)
        apart = {(link.first.name, link.second.name) for link in relations(scene)}
        assert len(apart) == pairs


def test_every_object_shows_its_colour_in_the_picture():
    for index in range(30):
        scene = draw_scene(0, "train", index)
        picture = Image.open(io.BytesIO(draw_png(scene, 96)))
        colours = {colour for _, colour in picture.getcolors(96 * 96)}
        for item in scene.objects:
            assert COLOURS[item.colour] in colours


@pytest.mark.parametrize("split", ["train", "val"])
def test_captions_are_true_and_four_of_five_name_every_object(split):
    for index in range(150):
        record = record_of(index, split)
        objects = objects_of(record)
        assert len(record["captions"]) == 5
        for place, caption in enumerate(record["captions"]):
            named = set(re.findall(NAME, caption))
            assert named <= objects.keys()
            assert place == 2 or named == objects.keys()
            check_sizes(caption, objects)
            check_relations(caption, objects)
            check_counts(caption, record["scene"]["objects"])


def check_sizes(caption: str, objects: dict[str, dict]) -> None:
    for size, name in re.findall(rf"(small|large) ({NAME})", caption):
        assert objects[name]["size"] == size


def check_relations(caption: str, objects: dict[str, dict]) -> None:
    link = rf"({NAME}) (?:is )?({KIND}) (?:the|an?) (?:small |large )?({NAME})"
    for first, kind, second in re.findall(link, caption):
        assert is_so(objects[first], kind, objects[second]), caption


def check_counts(caption: str, items: list[dict]) -> None:
    for number, shape in re.findall(rf"\b({'|'.join(NUMBERS)}) ({SHAPE}|object)", caption):
        there = sum(shape in ("object", item["shape"]) for item in items)
        assert there == NUMBERS[number], caption


def test_places_are_those_of_the_centres():
    for index in range(100):
        record = record_of(index)
        objects = objects_of(record)
        place = r"(?:at|on|in) the (?:top|bottom|left|right|middle)(?: left| right)?"
        for name, where in re.findall(rf"({NAME}) ({place})", record["captions"][4]):
            left, top, right, bottom = objects[name]["box"]
            x, y = (left + right) / 2, (top + bottom) / 2
            assert ("left" in where) == (x < 32)
            assert ("right" in where) == (x >= 64)
            assert ("top" in where) == (y < 32)
            assert ("bottom" in where) == (y >= 64)


def true_answer(question: str, objects: dict[str, dict]) -> str:
    """Answered from the objects alone; fails where the answer is in doubt."""
    items = list(objects.values())
    if found := re.fullmatch(rf"what colour is the ({SHAPE})\?", question):
        (item,) = [item for item in items if item["shape"] == found[1]]
        return item["colour"]
    if found := re.fullmatch(rf"what shape is the ({COLOUR}) object\?", question):
        (item,) = [item for item in items if item["colour"] == found[1]]
        return item["shape"]
    if found := re.fullmatch(rf"is the ({NAME}) small or large\?", question):
        return objects[found[1]]["size"]
    if question == "how many objects are there?":
        return str(len(items))
    if found := re.fullmatch(rf"how many ({COLOUR}) objects are there\?", question):
        return str(sum(item["colour"] == found[1] for item in items))
    if found := re.fullmatch(rf"how many ({SHAPE})(?:e?s) are there\?", question):
        return str(sum(item["shape"] == found[1] for item in items))
    if found := re.fullmatch(rf"is there an? ({NAME})\?", question):
        return "yes" if found[1] in objects else "no"
    if found := re.fullmatch(rf"is the ({NAME}) ({KIND}) the ({NAME})\?", question):
        return "yes" if is_so(objects[found[1]], found[2], objects[found[3]]) else "no"
    found = re.fullmatch(
        rf"what (shape|colour) is (?:the object )?({KIND}) the ({NAME})\?", question
    )
    assert found, question
    (item,) = [item for item in items if is_so(item, found[2], objects[found[3]])]
    return item[found[1]]


def test_answers_are_true():
    for index in range(300):
        record = record_of(index)
        for question in record["questions"]:
            assert question["answers"] == [true_answer(question["question"], objects_of(record))]


def test_answers_are_balanced():
    answers: dict[str, Counter] = {}
    for index in range(1000):
        scene = draw_scene(0, "train", index)
        for question in scene_questions(scene, Random(index)):
            answers.setdefault(question.kind, Counter())[question.answer] += 1
    for kind in ("existence", "relation", "size"):
        assert max(answers[kind].values()) < 0.56 * answers[kind].total()
    for kind in ("colour", "shape", "count"):
        assert max(answers[kind].values()) < 0.4 * answers[kind].total()


def test_ids_are_unique_over_splits():
    records = [record_of(index, split) for split in ("train", "val") for index in range(50)]
    assert len({record["image_id"] for record in records}) == 100
    questions = [question["question_id"] for record in records for question in record["questions"]]
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (SynthOptions(samples=0), "--samples"),
        (SynthOptions(samples=1, image_size=8), "--image-size"),
        (SynthOptions(samples=1, split="dev"), "--split"),
    ],
)
def test_senseless_options_are_named(tmp_path, options, place):
    with pytest.raises(UserError, match=place):
        synthesise(tmp_path / "out", options, overwrite=False, workers=1)
    assert not list(tmp_path.iterdir())


def test_existing_output_is_refused_and_replaced_only_when_asked(shards, tmp_path):
    out = tmp_path / "out"
    options = SynthOptions(samples=2, image_size=32)
    synthesise(out, options, overwrite=False, workers=1)
    with pytest.raises(UserError, match="--overwrite"):
        synthesise(out, options, overwrite=False, workers=1)
    synthesise(out, SynthOptions(samples=3, image_size=32, shard_size=1), overwrite=True, workers=1)
    assert len(digests(out)) == 3
    (out / "thesis.docx").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.docx"):
        synthesise(out, options, overwrite=True, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
