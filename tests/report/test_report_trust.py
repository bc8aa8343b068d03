"""How far a number can be trusted: n, interval, baselines, seeds and the overlap, all said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_up_runs import pretrain_run, task_run, write_classification, write_vqa

from vlpretrain.report import write_report
from vlpretrain.report.headline import UNCHECKED, Baseline, Headline, read_overlap
from vlpretrain.report.records import read_run
from vlpretrain.report.trust import run_headlines, seeds, trust_rows, verdict


def headline(interval: tuple[float, float] | None, *baselines: Baseline) -> Headline:
    return Headline("accuracy", 0.5, "100 questions", interval, baselines, UNCHECKED)


@pytest.mark.parametrize(
    ("interval", "baselines", "kind"),
    [
        ((0.45, 0.55), [Baseline("chance", 0.1)], "above"),
        ((0.45, 0.55), [Baseline("chance", 0.1), Baseline("blind", 0.4, (0.3, 0.46))], "unclear"),
        ((0.45, 0.55), [Baseline("chance", 0.5)], "unclear"),
        ((0.45, 0.55), [Baseline("blind", 0.7, (0.6, 0.8))], "below"),
        (None, [Baseline("chance", 0.1)], "unknown"),
        ((0.45, 0.55), [], "unknown"),
    ],
)
def test_a_number_is_more_than_its_baseline_only_where_their_intervals_lie_apart(
    interval: tuple[float, float] | None, baselines: list[Baseline], kind: str
) -> None:
    assert verdict(headline(interval, *baselines)).kind == kind


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (None, "unchecked", "overlap with the training data was not checked"),
        ({"checked": False, "note": "no index"}, "unchecked", "not checked: no index"),
        ({"checked": "yes", "pictures": 0}, "unchecked", "not checked"),
        ({"checked": True}, "unchecked", "no counts"),
        ({"checked": True, "pictures": 0, "captions": 0, "sources": ["a"]}, "none", "(a)"),
        ({"checked": True, "pictures": 1, "captions": 0, "of": 10}, "found", "1 picture of 10"),
        ({"checked": True, "pictures": 2, "captions": 3}, "found", "2 pictures and 3 captions"),
        ({"checked": True, "captions": 1, "sources": list("abcdefgh")}, "captions", "and 3 more"),
    ],
)
def test_an_overlap_is_said_as_it_was_measured(value: Any, kind: str, said: str) -> None:
    found = read_overlap(value)
    assert found.kind == kind
    assert said in found.text


def test_one_seed_is_said_plainly(tmp_path: Path) -> None:
    run = task_run(tmp_path / "vqa", "vqa", seed=7)
    write_vqa(run / "evaluation")
    assert "one seed (7)" in write_report(run).read_text()
    (run / "config.yaml").write_text(yaml.safe_dump({"task": {"name": "vqa"}}))
    assert seeds(read_run(run)) == "seed not recorded"


def test_every_headline_has_its_row(tmp_path: Path) -> None:
    run = task_run(tmp_path / "probe", "classification")
    write_classification(run / "evaluation")
    write_vqa(run / "evaluation")
    rows = trust_rows(read_run(run))
    assert [row.headline.value for row in rows] == [0.8113, 0.742, 0.968]
    assert [row.verdict.kind for row in rows] == ["above", "above", "unknown"]


def test_pretraining_is_judged_by_its_held_out_shares(tmp_path: Path) -> None:
    found = run_headlines(read_run(pretrain_run(tmp_path / "run")))
    assert [one.title for one in found] == [
        "ITM accuracy",
        "Image to text recall@1",
        "Text to image recall@1",
    ]
    assert [one.baselines[0].value for one in found] == [0.5, 0.005, 0.005]
    assert {one.num for one in found} == {"up to 200 samples"}


def test_a_fine_tune_is_judged_by_its_evaluation_else_by_its_metrics(tmp_path: Path) -> None:
    run = task_run(tmp_path / "vqa", "vqa")
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 400, "split": "val", "val/vqa_accuracy": 0.7}) + "\n")
    assert [one.value for one in run_headlines(read_run(run))] == [0.7]
    write_vqa(run / "evaluation")
    assert [one.value for one in run_headlines(read_run(run))] == [0.8113]
