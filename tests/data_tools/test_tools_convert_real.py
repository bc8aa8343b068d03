"""Real downloads, where they lie beside the repository: every question arrives."""

from pathlib import Path

import pytest
from converted_shards import samples_of

from data_tools.cli import main

PARENTS = Path(__file__).resolve().parents[3:5]
DATA = next((up / "shared/data" for up in PARENTS if (up / "shared/data").is_dir()), None)

pytestmark = pytest.mark.skipif(DATA is None, reason="needs ../shared/data")


def convert(capsys, *arguments: object) -> str:
    assert main(["convert", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_easy_vqas_test_split_is_complete(tmp_path, capsys):
    questions = DATA / "easy_vqa" / "test" / "questions.json"
    shown = convert(capsys, "easy_vqa", "--questions", questions, "--out", tmp_path / "out")
    assert "test: 9,673 questions over 1,000 pictures, as published" in shown
    samples = samples_of(tmp_path / "out")
    answers = [item["answers"] for sample in samples for item in sample["questions"]]
    assert sum(answer in (["yes"], ["no"]) for answer in answers) == 7_136


def test_nlvrs_dev_split_has_both_orders_and_a_group_a_sentence(tmp_path, capsys):
    questions = DATA / "nlvr" / "dev" / "dev.json"
    shown = convert(capsys, "nlvr", "--questions", questions, "--out", tmp_path / "out")
    assert "dev: 989 questions over 1,978 pictures, as published" in shown
    samples = samples_of(tmp_path / "out")
    sentences: dict[str, set[str]] = {}
    for sample in samples:
        (item,) = sample["questions"]
        sentences.setdefault(item["group"], set()).add(item["question"])
    assert len(samples) == 1_978
    assert len(sentences) == 267
    assert max(len(texts) for texts in sentences.values()) == 1


def test_coco_photos_keep_five_captions_and_whom_to_credit(tmp_path, capsys):
    folder = DATA / "coco_cc"
    files = ["--captions", folder / "captions.json", "--images", folder / "images"]
    shown = convert(capsys, "coco", *files, "--out", tmp_path / "out", "--strict")
    assert "76 pictures, 380 captions" in shown
    for sample in samples_of(tmp_path / "out"):
        assert len(sample["captions"]) == 5
        assert sample["flickr_url"].startswith("http")
