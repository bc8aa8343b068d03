"""VQA on the page: beside its baselines, by type, right and wrong answers with their pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_up_runs import kind, scene, task_run, vqa_example, write_vqa

from vlpretrain.report import write_report
from vlpretrain.report.vqa import MAX_EXAMPLES, MAX_KINDS, read_vqa

PICTURE = "data:image/jpeg;base64,"


def vqa_page(folder: Path, **changes: object) -> str:
    run = task_run(folder / "vqa", "vqa")
    write_vqa(run / "evaluation", **changes)
    return write_report(run).read_text()


def test_the_accuracy_stands_beside_its_baselines_with_whiskers(tmp_path: Path) -> None:
    page = vqa_page(tmp_path)
    assert "81.1 % (79.4 to 82.8 %)" in page
    assert "46.3 % (44.1 to 48.5 %)" in page
    assert "27.1 % (25.1 to 29.0 %)" in page
    assert page.count('class="whisker"') == 3
    assert "+34.8" in page  # points over the stronger baseline


def test_a_run_of_vqa_has_no_section_or_note_of_pretraining(tmp_path: Path) -> None:
    page = vqa_page(tmp_path)
    assert "visual question answering report" in page
    for foreign in ("No held-out samples", "reconstruct", "scored pairs", "VLModel"):
        assert foreign not in page


def test_without_an_evaluation_the_page_says_so(tmp_path: Path) -> None:
    page = write_report(task_run(tmp_path / "vqa", "vqa")).read_text()
    assert "There is no evaluation/vqa.json" in page
    assert 'id="vqa"' not in page


def test_examples_show_pictures_top_answers_people_and_words(tmp_path: Path) -> None:
    page = vqa_page(tmp_path)
    assert page.index("Answered right") < page.index("Answered wrong")
    assert "people: red ×8, dark red ×2" in page
    assert page.count('class="question"') == 9
    assert page.count('class="word"') == 5 * 5  # every other question has a map for each word
    assert '<span class="name right">green</span>' in page  # what would have been right
    assert "no picture" not in page


def test_two_pictures_of_one_question_stand_together(tmp_path: Path) -> None:
    example = vqa_example(tmp_path, 1)
    example["image"] = [scene(tmp_path, "left.png", 1), scene(tmp_path, "right.png", 2)]
    view = read_vqa({"examples": [example]}, tmp_path)
    assert view is not None
    assert [source[: len(PICTURE)] for source in view.examples[0].shown[0].pictures] == [
        PICTURE
    ] * 2


def test_a_missing_or_broken_picture_is_a_placeholder(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    names = ["broken.png", "absent.png", "../vqa/config.yaml", "a\0b", "x" * 5000, "\ud800", 7, []]
    examples = [{"image": name, "question": "?", "accuracy": 1.0} for name in names]
    page = vqa_page(tmp_path, examples=examples)
    assert page.count("no picture") == MAX_EXAMPLES == len(names)
    assert PICTURE not in page


def test_scores_that_are_no_shares_have_no_bars(tmp_path: Path) -> None:
    example = {"prediction": "yes", "top": [{"answer": "yes", "score": -0.2}]}
    view = read_vqa({"examples": [example]}, tmp_path)
    assert view is not None
    (top,) = view.examples[0].shown[0].top
    assert (top.bar, top.score) == (None, "-0.2")


@pytest.mark.parametrize(("accuracy", "title"), [(0.6, "Answered right"), (0.3, "Answered wrong")])
def test_an_answer_is_right_from_two_people_on(accuracy: float, title: str, tmp_path: Path) -> None:
    view = read_vqa({"examples": [{"accuracy": accuracy}]}, tmp_path)
    assert view is not None
    assert [group.title for group in view.examples] == [title]


def test_long_lists_are_capped_and_say_so(tmp_path: Path) -> None:
    types = [kind(f"type {n}", 1000 - n, 0.5) for n in range(MAX_KINDS + 7)]
    examples = [{"question": f"question {n}?", "accuracy": 1.0} for n in range(100)]
    page = vqa_page(tmp_path, by_question_type=types, examples=examples)
    assert "and 7 more" in page
    assert page.count('class="question"') == MAX_EXAMPLES


def test_vocabulary_and_consistency_are_shown_where_measured(tmp_path: Path) -> None:
    page = vqa_page(tmp_path, consistency={"n": 321, "value": 0.25}, vocabulary=None)
    assert "of 321 groups" in page
    assert "Training answers covered" not in page
    assert "in a vocabulary of 28" in vqa_page(tmp_path)
