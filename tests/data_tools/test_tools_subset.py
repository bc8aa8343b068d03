"""A share of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_tools.output import write_shard
from data_tools.reading import open_shards, read_samples
from data_tools.subset import SubsetOptions, write_subset
from vlpretrain.errors import UserError


@pytest.fixture
def shards(tmp_path: Path) -> str:
    folder = tmp_path / "whole"
    folder.mkdir()
    samples = [
        {
            "__key__": f"{number:04d}",
            "png": b"picture",
            "json": json.dumps(
                {
                    "image_id": number,
                    "questions": [
                        {"question": "q", "answers": ["a"], "question_id": 10 * number + place}
                        for place in range(4)
                    ],
                }
            ).encode(),
        }
        for number in range(300)
    ]
    write_shard(folder / "a.tar", samples[:200])
    write_shard(folder / "b.tar", samples[200:])
    return str(folder)


def kept(folder: Path) -> dict[str, list[int]]:
    found = {}
    for raw in read_samples(open_shards(str(folder))):
        record = json.loads(raw.parts["json"])
        assert raw.parts["png"] == b"picture"
        found[raw.key] = [question["question_id"] for question in record["questions"]]
    return found


@pytest.mark.parametrize("unit", ["samples", "questions"])
def test_a_larger_share_holds_a_smaller_one(tmp_path: Path, shards: str, unit: str) -> None:
    for share in (0.1, 0.3):
        write_subset(shards, tmp_path / str(share), SubsetOptions(share, unit))
    small, large = kept(tmp_path / "0.1"), kept(tmp_path / "0.3")
    questions = {q for row in small.values() for q in row}
    assert questions < {q for row in large.values() for q in row}
    counted = len(small) / 300 if unit == "samples" else len(questions) / 1200
    assert 0.05 < counted < 0.16


def test_samples_keep_all_their_questions(tmp_path: Path, shards: str) -> None:
    line = write_subset(shards, tmp_path / "out", SubsetOptions(0.2))
    found = kept(tmp_path / "out")
    assert all(len(questions) == 4 for questions in found.values())
    assert line.startswith(f"{len(found)} samples with {4 * len(found)} questions")


def test_another_seed_is_another_choice(tmp_path: Path, shards: str) -> None:
    for seed in (0, 1):
        write_subset(shards, tmp_path / str(seed), SubsetOptions(0.2, seed=seed))
    assert set(kept(tmp_path / "0")) != set(kept(tmp_path / "1"))


@pytest.mark.parametrize("share", [0.0, 1.5, 1e-9])
def test_a_share_that_keeps_nothing_is_refused(tmp_path: Path, shards: str, share: float) -> None:
    with pytest.raises(UserError, match="share"):
        write_subset(shards, tmp_path / "out", SubsetOptions(share))
    assert not (tmp_path / "out").exists()
