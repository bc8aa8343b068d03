"""`vlpretrain explain`: a PNG a picture and JSON; what can't be used is named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from vlpretrain.cli.main import main
from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel

SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", 32, depth=1, width=48, heads=3, patch=8),
    TextSpec(vocab_size=60, max_tokens=16, depth=1, width=32, heads=2),
    FusionSpec("cross", depth=3, width=32, heads=2),
    embed_dim=16,
)


def save_model(folder: Path, kind: str, questions_about: int = 0) -> Path:
    """An export, with an answerer for so many pictures a question."""
    torch.manual_seed(0)
    train_wordpiece(["two red dogs on a blue square"] * 2, 60).save(folder / "tokenizer")
    model = create_model(replace(SPEC, fusion=replace(SPEC.fusion, kind=kind)))
    if questions_about:
        spec = AnswererSpec("classify", questions_about, answers=("yes", "no"))
        model.answerer = Answerer(spec, SPEC.fusion.width, SPEC.text.vocab_size)
    model.save_pretrained(folder / "export", folder / "tokenizer")
    return folder / "export"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("cross"), "cross")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures and a file that is none."""
    for number, colour in enumerate(("red", "blue")):
        Image.new("RGB", (50 + 9 * number, 40), colour).save(tmp_path / f"{colour}.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return tmp_path


def test_one_picture(export: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "new" / "where.png"
    image = str(folder / "red.jpg")
    assert main(["explain", image, "Two dogs", "--model", str(export), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    probability = float(VLModel.from_pretrained(export).match(image, "Two dogs"))
    assert f"match {100 * probability:.1f} %" in said
    assert str(out) in said
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
    (entry,) = json.loads(out.with_suffix(".json").read_text())["examples"]
    assert entry["probability"] == pytest.approx(probability, abs=1e-5)
    assert (entry["picture"], entry["layer"], entry["answer"]) == ("where.png", 1, None)
    assert [word["word"] for word in entry["words"]] == ["Two", "dogs"]
    assert all(len(row) == 4 for word in entry["words"] for row in word["maps"][0])
    assert sorted(path.name for path in out.parent.iterdir()) == ["where.json", "where.png"]


def test_pictures_that_cannot_be_read_are_skipped_named_and_counted(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(folder / name) for name in ("red.jpg", "broken.jpg", "absent.jpg", "blue.jpg")]
    out = folder / "maps.png"
    # The text may stand apart from the pictures.
    given = [*images, "--model", str(export), "red dogs", "--out", str(out), "--layer", "0"]
    assert main(["explain", *given]) == 0
    said = capsys.readouterr()
    assert "broken.jpg" in said.err
    assert "absent.jpg" in said.err
    assert "2 pictures skipped" in said.out
    found = json.loads((folder / "maps.json").read_text())
    assert [entry["picture"] for entry in found["examples"]] == ["maps-1.png", "maps-4.png"]
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.jpg", "absent.jpg"]
    assert all((folder / entry["picture"]).is_file() for entry in found["examples"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["{red}", "", "--model", "{export}"], "the text is empty"),
        (["{red}", " \n", "--model", "{export}"], "the text is empty"),
        (["{red}", "\udcff", "--model", "{export}"], "no UTF-8"),
        (["{red}", "--model", "{export}"], "a text behind it"),
        (["{red}", "{blue}", "--model", "{export}"], "a text behind it"),
        (["{red}", "dogs"], "--model"),
        (["{red}", "dogs", "--model", "{folder}"], "no model was saved here"),
        (["{red}", "dogs", "--model", "{folder}/absent"], "no model was saved here"),
        (["{broken}", "dogs", "--model", "{export}"], "no picture could be read; 1 skipped"),
        (["{red}", "dogs", "--model", "{export}", "--layer", "3"], "0 to 2"),
        (["{red}", "dogs", "--model", "{export}", "--layer", "2"], "never reaches the score"),
        (["{red}", "dogs", "--model", "{export}", "--layer", "x"], "--layer"),
        (["{red}", "dogs", "--model", "{export}", "--out", "maps.jpg"], "no PNG file"),
        (["{red}", "dogs", "--model", "{export}", "--out", "{folder}"], "no PNG file"),
        (["{red}", "how many dogs?", "--model", "{export}", "--question"], "answers no questions"),
    ],
)
def test_a_mistake_ends_with_code_2_a_message_and_nothing_written(
    arguments: list[str],
    expected: str,
    export: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    before = set(folder.rglob("*"))
    names = {"export": export, "folder": folder, "red": folder / "red.jpg"}
    names |= {"blue": folder / "blue.jpg", "broken": folder / "broken.jpg"}
    assert main(["explain", *(argument.format(**names) for argument in arguments)]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert set(folder.rglob("*")) == before


def test_the_answer_to_a_question(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = save_model(tmp_path, "cross", questions_about=1)
    image, question = str(folder / "red.jpg"), "red dogs on a square"
    given = ["explain", image, question, "--model", str(export), "--out", str(folder / "a.png")]
    assert main([*given, "--question"]) == 0
    ((said,),) = VLModel.from_pretrained(export).answer(image, question)
    assert f"{image}: {said.answer} {100 * said.score:.1f} %" in capsys.readouterr().out
    (entry,) = json.loads((folder / "a.json").read_text())["examples"]
    assert entry["answer"] == said.answer
    assert main(given) == 0
    assert "--question explains an answer" in capsys.readouterr().err


def test_a_question_about_two_pictures(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = save_model(tmp_path, "cross", questions_about=2)
    red, blue, broken = (str(folder / f"{name}.jpg") for name in ("red", "blue", "broken"))
    rest = ["dogs", "--question", "--model", str(export), "--out", str(folder / "a.png")]
    assert main(["explain", red, blue, broken, red, *rest]) == 0
    found = json.loads((folder / "a.json").read_text())
    (entry,) = found["examples"]
    assert (entry["image"], entry["picture"]) == ([red, blue], "a-1.png")
    assert all(len(word["maps"]) == 2 for word in entry["words"])
    assert [skipped["image"] for skipped in found["skipped"]] == [broken]
    capsys.readouterr()
    assert main(["explain", red, blue, red, *rest]) == 2
    assert "3 pictures for a model that reads 2" in capsys.readouterr().err


def test_a_name_that_is_no_text_is_still_said(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename(folder / "red.jpg", folder / "r\udcff.jpg")
    os.rename(folder / "broken.jpg", folder / "b\udcff.jpg")
    images = [str(folder / "r\udcff.jpg"), str(folder / "b\udcff.jpg")]
    out = str(folder / "maps.png")
    assert main(["explain", *images, "dogs", "--model", str(export), "--out", out]) == 0
    said = capsys.readouterr()
    assert "r\ufffd.jpg: match" in said.out
    assert "skipped" in said.err
    assert "b\ufffd.jpg" in said.err


def test_a_picture_is_never_written_over(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    Image.new("RGB", (40, 40)).save(folder / "a-2.png")
    model = ["dogs", "--model", str(export), "--out", str(folder / "a.png")]
    assert main(["explain", str(folder / "a.png"), *model]) == 2
    assert main(["explain", str(folder / "red.jpg"), str(folder / "a-2.png"), *model]) == 2
    assert "a-2.png would be written over" in capsys.readouterr().err


def test_a_concat_fusion_has_nothing_to_show(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = save_model(tmp_path, "concat")
    assert main(["explain", str(folder / "red.jpg"), "dogs", "--model", str(export)]) == 2
    assert "never look at the picture" in capsys.readouterr().err
