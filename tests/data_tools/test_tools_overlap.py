"""The command says what of an evaluation set is in the training set, and names it."""

import json
from pathlib import Path

import pytest
from converted_shards import draw, write_lines

from data_tools.cli import main


def shards(folder: Path, numbers: range, name: str) -> Path:
    """Shards of two samples; a picture and its question for each number."""
    for number in numbers:
        draw(folder / name / "images" / f"{number}.png", number)
    records = [
        {"image": f"{number}.png", "question": f"What is number {number}?", "answer": "it"}
        for number in numbers
    ]
    path = write_lines(folder / name / "q.jsonl", records)
    arguments = ["--questions", path, "--out", folder / name / "shards", "--shard-size", 2]
    assert main(["convert", "jsonl", *map(str, arguments)]) == 0
    return folder / name / "shards"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_overlap_counts_names_and_writes(tmp_path, capsys, workers):
    a, b = shards(tmp_path, range(6), "train"), shards(tmp_path, range(4, 9), "val")
    capsys.readouterr()
    out = tmp_path / "overlap.json"
    arguments = ["overlap", a, b, "--out", out, "--workers", workers]
    assert main([*map(str, arguments)]) == 0
    shown = capsys.readouterr().out
    assert "pictures   2 of 5 of B (40.00%) are in A" in shown
    assert "questions  2 of 5 of B (40.00%) are asked in A of the same picture" in shown
    assert "captions   none in B" in shown
    assert "  shards/shard-000000.tar/000000000 = shards/shard-000002.tar/000000004" in shown
    record = json.loads(out.read_text())
    assert [pair["b"] for pair in record["pictures"]] == [
        f"{b}/shard-000000.tar/000000000",
        f"{b}/shard-000000.tar/000000001",
    ]
    assert record["overlap"]["pictures"] == 2
    assert record["overlap"]["of"] == 5
    assert record["overlap"]["sources"] == [str(a)]
    assert len(list(a.glob("*.tar.fpr"))) == 3


def test_many_pairs_are_all_in_the_file_and_twenty_on_the_screen(tmp_path, capsys):
    a = shards(tmp_path, range(25), "train")
    assert main(["overlap", str(a), str(a), "--out", str(tmp_path / "o.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("and 5 more") == 2
    assert len(json.loads((tmp_path / "o.json").read_text())["pictures"]) == 25


def test_shards_with_fingerprints_can_still_be_replaced(tmp_path):
    a = shards(tmp_path, range(3), "train")
    assert main(["overlap", str(a), str(a)]) == 0
    arguments = ["--questions", tmp_path / "train" / "q.jsonl", "--out", a, "--overwrite"]
    assert main(["convert", "jsonl", *map(str, arguments)]) == 0
    assert not list(a.glob("*.fpr"))


def test_a_set_that_is_not_there_is_a_message(tmp_path, capsys):
    assert main(["overlap", str(tmp_path), str(tmp_path)]) == 2
    assert "no shards" in capsys.readouterr().err
