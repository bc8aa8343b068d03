"""Retrieval on the page: both ways, before and after re-ranking, over k, with examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_runs import task_run, write_retrieval

from vlpretrain.report import write_report
from vlpretrain.report.charts import LEFT, RIGHT, WIDTH
from vlpretrain.report.curve import LABEL_SPACE, draw_curve


def retrieval_page(folder: Path, **changes: object) -> str:
    run = task_run(folder / "retrieval", "retrieval")
    write_retrieval(run / "evaluation", **changes)
    return write_report(run).read_text()


def points(ks: list[int]) -> list[dict[str, float]]:
    return [{"k": k, "image_to_text": 0.4, "text_to_image": 0.3, "seconds": 1.0} for k in ks]


def test_recalls_of_both_stages_stand_beside_chance(tmp_path: Path) -> None:
    page = retrieval_page(tmp_path)
    for said in ("dual encoder", "re-ranked (top 128)", "47.2 %", "64.1 %", "36.0 to 42.2 %"):
        assert said in page
    assert page.count('<tr class="chance">') == 2
    assert "1,000 images, 5,000 texts, 5 captions an image" in page
    assert "a wrong candidate with the same score" in page


def test_the_curve_has_0_at_the_left_and_the_largest_k_at_the_right() -> None:
    curve = draw_curve(points([128, 0, 16, 4]))
    assert curve is not None
    places = [tick.place for tick in curve.x_ticks]
    assert [tick.label for tick in curve.x_ticks] == ["0", "4", "16", "128"]
    assert (places[0], places[-1]) == (LEFT, WIDTH - RIGHT)
    assert len(curve.lines[0].dots) == len(curve.lines[1].dots) == 4


def test_labels_of_k_keep_their_distance() -> None:
    curve = draw_curve(points(list(range(200))))
    assert curve is not None
    places = np.array([tick.place for tick in curve.x_ticks])
    assert (np.diff(places) >= LABEL_SPACE - 0.1).all()


def test_a_direction_that_was_not_measured_is_a_gap() -> None:
    curve = draw_curve([{"k": 0, "image_to_text": 0.5}, {"k": 8, "image_to_text": 0.6}])
    assert curve is not None
    assert curve.lines[0].path.startswith("M")
    assert (curve.lines[1].path, curve.lines[1].dots) == ("", ())


@pytest.mark.parametrize("value", [None, [], 3, [{"k": -1, "image_to_text": 0.5}], [{"k": 4}]])
def test_without_a_point_there_is_no_curve(value: object, tmp_path: Path) -> None:
    assert draw_curve(value) is None
    assert "Recall@1 over" not in retrieval_page(tmp_path, curve=value)


def test_one_point_is_enough() -> None:
    curve = draw_curve(points([0]))
    assert curve is not None
    assert len(curve.lines[0].dots) == 1


def test_examples_of_both_ways_mark_what_is_right(tmp_path: Path) -> None:
    page = retrieval_page(tmp_path)
    assert page.count('class="is-right"') == 4
    assert page.count('<span class="right">') == 4
    assert "first right one at rank 3" in page


def test_an_overlap_is_a_warning_and_no_check_is_said(tmp_path: Path) -> None:
    assert "12 pictures and 1 caption of 1,000 also in the training data" in retrieval_page(
        tmp_path
    )
    page = retrieval_page(tmp_path, overlap=None)
    assert "verlap with the training data was not checked" in page
    assert 'class="warn"' not in page
