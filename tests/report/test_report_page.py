"""The report: everything shown, everything escaped, nothing fetched, and no run breaks it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from made_up_runs import Tags
from PIL import Image

from vlpretrain.errors import UserError
from vlpretrain.report import write_report
from vlpretrain.report.figures import chance_levels
from vlpretrain.report.records import read_run
from vlpretrain.report.run_view import duration

HOSTILE = "<script>alert('caption')</script> & \"quotes\""
SECTIONS = ("figures", "losses", "progress", "reconstructions", "pairs", "data", "model")


def test_a_full_run_shows_every_section_without_a_note(tmp_path: Path) -> None:
    page = write_report(fake_run(tmp_path)).read_text()
    assert re.findall(r'<section id="(\w+)"', page) == [
        "figures",
        "trust",
        *SECTIONS[1:3],
        "more",
        *SECTIONS[3:],
        "environment",
        "next",
    ]
    assert "left no" not in page
    assert "missing or unreadable" not in page
    assert "says nothing" not in page


def test_curves_stand_beside_their_chance_levels(tmp_path: Path) -> None:
    page = write_report(fake_run(tmp_path)).read_text()
    assert "chance 0.6365" in page  # itm: the entropy of one positive in three
    assert "chance 3.4657" in page  # itc: ln(32)
    assert "chance 7.3132" in page  # mlm: ln(1500)
    assert "mean colour 0.25" in page


def test_recalls_stand_beside_the_chance_that_the_evaluator_measured(tmp_path: Path) -> None:
    page = write_report(fake_run(tmp_path)).read_text()
    assert "Text to image recall@1" in page
    assert "chance 0.5 %" in page
    assert "Chance recall" not in page


def test_each_direction_of_retrieval_has_its_chance(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    figures = {
        "val/image_to_text_recall@1": 0.3,
        "val/image_to_text_reranked_recall@1": 0.4,
        "val/chance_image_to_text_recall@1": 0.025,
        "val/text_to_image_recall@1": 0.2,
        "val/chance_text_to_image_recall@1": 0.0062,
    }
    line = json.dumps({"step": 400, "split": "val", **figures})
    (run / "metrics.jsonl").write_text(line + "\n")
    levels = chance_levels(read_run(run))
    assert {name: levels.get(name) for name in figures if "chance" not in name} == {
        "val/image_to_text_recall@1": 0.025,
        "val/image_to_text_reranked_recall@1": 0.025,
        "val/text_to_image_recall@1": 0.0062,
    }


def test_skipped_samples_are_counted_and_the_first_named(tmp_path: Path) -> None:
    page = write_report(fake_run(tmp_path)).read_text()
    assert "Skipped samples: 30" in page
    assert page.count("truncated JPEG") == 10
    assert "and 20 more" in page


def test_the_page_is_one_file_that_fetches_and_runs_nothing(tmp_path: Path) -> None:
    page = Tags(write_report(fake_run(tmp_path)).read_text())
    assert not {"script", "link", "iframe", "object"} & page.names
    assert page.addresses
    assert all(address.startswith("data:image/") for address in page.addresses)


def test_everything_from_data_is_escaped(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    for name in ("summary.json", "environment.json"):
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps({**content, HOSTILE: HOSTILE, "command": HOSTILE}))
    (run / "config.yaml").write_text(yaml.safe_dump({HOSTILE: HOSTILE}))
    with (run / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 9999, f"loss/{HOSTILE}": 1.0}) + "\n")
    text = write_report(run).read_text()
    assert "script" not in Tags(text).names
    assert "<script" not in text
    assert "&lt;script&gt;alert" in text


@pytest.mark.parametrize(
    ("missing", "note"),
    [
        ("config.yaml", "config.yaml is missing"),
        ("environment.json", "environment.json is missing"),
        ("summary.json", "says nothing about the model"),
        ("evaluation/evaluation.json", "no scored pairs"),
    ],
)
def test_a_missing_file_leaves_its_section_out_with_a_note(
    tmp_path: Path, missing: str, note: str
) -> None:
    run = fake_run(tmp_path)
    (run / missing).unlink()
    assert note in write_report(run).read_text()


def test_broken_files_count_as_missing(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    for name in ("config.yaml", "environment.json", "summary.json", "evaluation/evaluation.json"):
        (run / name).write_text("{[ not : a : mapping")
    assert "missing or unreadable" in write_report(run).read_text()


@pytest.mark.parametrize("content", [None, "", "{not json\n", '{"loss": 1}\n'])
def test_without_metrics_the_user_is_told_which_folder(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(UserError, match="metrics.jsonl"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_one_logged_step_is_enough(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0, "loss/itm": 0.7}\n')
    assert "<circle" in write_report(tmp_path).read_text()


def test_non_finite_values_are_gaps_that_are_counted(tmp_path: Path) -> None:
    values = ["1.0", "NaN", "Infinity", "0.9", "null", "0.8"]
    lines = [f'{{"step": {n}, "loss/itm": {value}}}\n' for n, value in enumerate(values)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    page = write_report(tmp_path).read_text()
    assert "3 logged values are not finite" in page
    assert not re.search(r'd="[^"]*(nan|inf)', page)


def test_a_run_of_nothing_but_nan_still_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss/mim": NaN}\n' * 3)
    assert write_report(tmp_path).exists()


def test_a_picture_outside_the_evaluation_folder_is_not_read(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    Image.new("RGB", (4, 4)).save(run / "outside.png")
    pair = {"image": "../outside.png", "caption": "c", "score": 0.5, "matched": True}
    (run / "evaluation" / "evaluation.json").write_text(json.dumps({"pairs": [pair]}))
    page = write_report(run).read_text()
    assert "no picture" in page
    assert "data:image" not in page


def test_best_and_worst_pairs_are_told_apart(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    pairs = [
        {"image": "", "caption": f"score {score}", "score": score, "matched": matched}
        for score, matched in [(0.2, True), (0.9, True), (0.7, False), (0.1, True), (0.8, True)]
    ]
    (run / "evaluation" / "evaluation.json").write_text(json.dumps({"pairs": pairs}))
    page = write_report(run).read_text()
    order = [page.index(f"<p>score {score}</p>") for score in (0.9, 0.8, 0.1, 0.2, 0.7)]
    assert order == sorted(order)


def test_a_second_report_replaces_the_first_as_a_whole(tmp_path: Path) -> None:
    run = fake_run(tmp_path)
    first = write_report(run).read_text()
    assert write_report(run).read_text() == first
    assert not list(run.glob(".report*"))


def test_durations_are_read_at_once() -> None:
    assert [duration(s) for s in (5.0, 125.0, 7300.0, float("nan"))] == [
        "5 s",
        "2 min 5 s",
        "2 h 1 min",
        "unknown",
    ]


def fake_run(folder: Path) -> Path:
    """A finished run as the loop, the evaluator and the command line leave it."""
    write_metrics(folder / "metrics.jsonl")
    config = {"out": str(folder), "train": {"global_batch": 32, "precision": "bf16"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    environment = {"commit": "1a2b3c4", "versions": {"torch": "2.14.1"}, "devices": ["CPU"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    skip = {"step": 7, "shard": "train-0001.tar", "key": "000817", "reason": "truncated JPEG"}
    (folder / "skipped.jsonl").write_text((json.dumps(skip) + "\n") * 30 + '{"cut')
    write_evaluation(folder / "evaluation")
    return folder


SUMMARY = {
    "command": "./launch.sh pretrain configs/quickstart.yaml --out runs/quickstart",
    "chance": {"loss/mim": 0.25, "loss/mlm": 7.3132},
    "data": {
        "samples": 4000,
        "sources": [
            {"source": "shards/train", "shards": 4, "samples": 4000},
            {"source": "shards/photos", "shards": 1, "samples": 76},
        ],
    },
    "parameters": {"vision": 5_500_000, "text": 3_100_000, "fusion": 2_400_000, "heads": 700_000},
}


def write_metrics(path: Path, steps: int = 400) -> None:
    noise = np.random.default_rng(0)
    with path.open("w") as lines:
        for step in range(10, steps + 1, 10):
            left = np.exp(-3 * step / steps)
            record = {"step": step, "samples_seen": 32 * step, "seconds": 0.7 * step}
            record |= {"lr": 3e-4 * min(1, step / 40), "samples_per_second": 45 + noise.normal()}
            starts = {"mim": 0.25, "itm": 0.64, "itc": 3.47, "mlm": 7.3}
            for name, start in starts.items():
                value = start * (0.2 + 0.8 * left) * (1 + 0.08 * noise.normal())
                record[f"loss/{name}"] = value
            record["loss"] = sum(record[f"loss/{name}"] for name in starts)
            record |= {"grad_norm": 1 + 4 * left, "itm/accuracy": 0.92 - 0.25 * left}
            lines.write(json.dumps(record) + "\n")
            if step % 100 == 0:
                held_out = {
                    "val/itm_accuracy": 0.9 - 0.3 * left,
                    "val/text_to_image_recall@1": 0.4 * (1 - left),
                    "val/chance_recall@1": 0.005,
                }
                held_out |= {f"val/loss/{n}": record[f"loss/{n}"] * 1.05 for n in starts}
                lines.write(json.dumps({"step": step, "split": "val", **held_out}) + "\n")


def write_evaluation(folder: Path) -> None:
    folder.mkdir()
    triplets, pairs = [], []
    for index in range(6):
        names = [f"{index}-{kind}.png" for kind in ("original", "masked", "reconstructed")]
        for kind, name in enumerate(names):
            picture(index, kind).save(folder / name)
        triplets.append(dict(zip(("original", "masked", "reconstructed"), names, strict=True)))
    captions = ["a red circle above a blue square", HOSTILE, "two green triangles", "word " * 60]
    for index in range(12):
        pairs.append(
            {
                "image": f"{index % 6}-original.png",
                "caption": captions[index % 4],
                "score": round(1 - index / 13, 3),
                "matched": index % 3 != 2,
            }
        )
    content = {"reconstructions": triplets, "pairs": pairs}
    (folder / "evaluation.json").write_text(json.dumps(content))


def picture(index: int, kind: int) -> Image.Image:
    """A disc on a plain ground; hidden in blocks (kind 1) or blurred (kind 2)."""
    y, x = np.mgrid[:96, :96]
    pixels = np.full((96, 96, 3), (240, 236, 224), np.uint8)
    inside = (x - 30 - 6 * index) ** 2 + (y - 50) ** 2 < 22**2
    pixels[inside] = [(200, 70, 60), (60, 120, 180), (80, 150, 90)][index % 3]
    if kind == 1:
        hidden = np.random.default_rng(index).random((3, 3)) < 0.6
        pixels[np.kron(hidden, np.ones((32, 32), bool))] = 128
    image = Image.fromarray(pixels)
    return image.resize((12, 12)).resize((96, 96)) if kind == 2 else image
