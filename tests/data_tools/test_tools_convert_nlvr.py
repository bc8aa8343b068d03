"""NLVR and NLVR2 from their official files: sentences that are true or false of pictures."""

from typing import Any

import pytest
from converted_shards import STRICT, convert, draw, samples_of, write_lines


def test_nlvr_takes_every_order_of_the_boxes_that_is_there(tmp_path):
    examples = [
        {"sentence": "There is a box.", "label": "true", "identifier": "15-0", "directory": "2"},
        {"sentence": "There is a box.", "label": "false", "identifier": "15-1", "directory": "2"},
    ]
    for name in ("15-0-0", "15-0-1", "15-1-0"):
        draw(tmp_path / "images" / "2" / f"dev-{name}.png", 1)
    report = convert("nlvr", tmp_path, write_lines(tmp_path / "dev.json", examples))
    samples = samples_of(tmp_path / "out")
    assert [sample["image_id"] for sample in samples] == ["dev-15-0-0", "dev-15-0-1", "dev-15-1-0"]
    questions = [question for sample in samples for question in sample["questions"]]
    assert [question["answers"] for question in questions] == [["true"], ["true"], ["false"]]
    assert {question["group"] for question in questions} == {"dev-15"}
    assert "warning: dev: 2 questions over 3 pictures; published are 989" in report.published


def nlvr2_example(identifier: str, label: str, sentence: str = "Both are dogs.") -> dict[str, Any]:
    url = "https://nowhere/picture.jpg"
    place = {"directory": "4"} if identifier.startswith("train") else {}
    return place | {
        "sentence": sentence,
        "left_url": url,
        "right_url": url,
        "label": label,
        "identifier": identifier,
        "validation": {"1": "True"},
    }


@pytest.mark.parametrize(
    ("split", "place"), [("dev", ""), ("dev", "dev/"), ("train", "train/4/"), ("train", "4/")]
)
def test_nlvr2_pairs_have_two_members_and_group_by_set_and_sentence(tmp_path, split, place):
    examples = [
        nlvr2_example(f"{split}-850-0-0", "False"),
        nlvr2_example(f"{split}-850-1-0", "True"),
        nlvr2_example(f"{split}-850-0-1", "True", "One is a cat."),
    ]
    for number, name in enumerate(("850-0-img0", "850-0-img1", "850-1-img0", "850-1-img1")):
        draw(tmp_path / "images" / f"{place}{split}-{name}.png", number)
    convert("nlvr2", tmp_path, write_lines(tmp_path / f"{split}.json", examples), writing=STRICT)
    first, second = samples_of(tmp_path / "out")
    assert list(first["members"]) == ["0.png", "1.png"]
    pictures = [f"{split}-850-0-img0.png", f"{split}-850-0-img1.png"]
    assert first["file_name"] == pictures
    assert list(first["members"].values()) == [
        (tmp_path / "images" / f"{place}{name}").read_bytes() for name in pictures
    ]
    assert [item["question_id"] for item in first["questions"]] == [
        f"{split}-850-0-0",
        f"{split}-850-0-1",
    ]
    assert [item["answers"] for item in first["questions"]] == [["false"], ["true"]]
    assert first["questions"][0]["group"] == second["questions"][0]["group"]
    assert first["questions"][0]["group"] != first["questions"][1]["group"]


def test_nlvr2_a_pair_that_lacks_one_picture_is_left_out(tmp_path):
    examples = [nlvr2_example("dev-1-0-0", "True"), nlvr2_example("dev-2-0-0", "True")]
    for name in ("dev-1-0-img0", "dev-1-0-img1", "dev-2-0-img0"):
        draw(tmp_path / "images" / f"{name}.png", 1)
    report = convert("nlvr2", tmp_path, write_lines(tmp_path / "dev.json", examples))
    assert report.missing == ["dev-2-0-img1.png"]
    assert "1 pictures missing: dev-2-0-img1.png (with 1 questions): left out" in report.lines()
    assert [sample["image_id"] for sample in samples_of(tmp_path / "out")] == ["dev-1-0"]
