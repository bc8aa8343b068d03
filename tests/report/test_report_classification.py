"""Classification on the page: top-1 and top-5, by class, right and wrong examples."""

from __future__ import annotations

from pathlib import Path

from made_up_runs import task_run, write_classification

from vlpretrain.report import write_report
from vlpretrain.report.classification import MAX_CLASSES


def classification_page(folder: Path, **changes: object) -> str:
    run = task_run(folder / "probe", "classification")
    write_classification(run / "evaluation", **changes)
    return write_report(run).read_text()


def test_top1_and_top5_stand_beside_chance(tmp_path: Path) -> None:
    page = classification_page(tmp_path)
    assert "74.2 % (71.3 to 77.0 %)" in page
    assert "900 images of 6 classes, linear probe" in page
    assert page.count('class="level bar-level"') == 2


def test_classes_come_lowest_first(tmp_path: Path) -> None:
    page = classification_page(tmp_path)
    order = [
        page.index(f"<td>{name}</td>") for name in ("red circle", "red square", "blue triangle")
    ]
    assert order == sorted(order)


def test_of_many_classes_both_ends_are_shown(tmp_path: Path) -> None:
    page = classification_page(tmp_path, classes=1000)
    assert "The 20 lowest of 1,000 classes" in page
    assert page.count("<td>class ") + page.count("<td>red ") < 2 * MAX_CLASSES
    assert "<td>class 999</td>" in page
    assert "<td>class 500</td>" not in page


def test_a_wrong_example_names_what_it_is(tmp_path: Path) -> None:
    page = classification_page(tmp_path)
    assert page.count("it is: ") == 1
    assert "it is: blue circle" in page
