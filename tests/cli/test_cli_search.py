"""`vlpretrain index-images` and `search`: the nearest pictures, and what is said of bad input."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vlpretrain.cli import index_images
from vlpretrain.cli.answer_sheet import PICTURE
from vlpretrain.cli.main import main
from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.picture_index import load_index

SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", 32, depth=1, width=48, heads=3, patch=8),
    TextSpec(vocab_size=60, max_tokens=16, depth=1, width=32, heads=2),
    FusionSpec("cross", depth=2, width=32, heads=2),
    embed_dim=16,
)
COLOURS = ("red", "green", "blue", "white", "black", "orange", "purple")


def save_export(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    train_wordpiece(["two red dogs on a blue square"] * 2, 60).save(folder / "tokenizer")
    create_model(SPEC).save_pretrained(folder / "export", folder / "tokenizer")
    return folder / "export"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_export(tmp_path_factory.mktemp("one"), seed=0)


@pytest.fixture(scope="module")
def other_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_export(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pictures in two folders."""
    pictures = tmp_path / "pictures"
    (pictures / "below").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        picture = Image.new("RGB", (40 + 5 * number, 60), colour)
        picture.paste("yellow", (5 * number, 8 * number, 15 + 5 * number, 20 + 8 * number))
        place = pictures / "below" if number % 2 else pictures
        picture.save(place / f"{colour}.{'PNG' if number == 3 else 'png'}")
    (pictures / "notes.txt").write_text("no picture")
    return pictures


def make_index(folder: Path, export: Path, *more: str) -> Path:
    out = folder.parent / "index.safetensors"
    assert (
        main(["index-images", str(folder), "--model", str(export), "--out", str(out), *more]) == 0
    )
    return out


def ask(capsys: pytest.CaptureFixture[str], index: Path, *arguments: str) -> dict[str, Any]:
    out = index.parent / "answer.png"
    assert main(["search", *arguments, "--index", str(index), "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["picture"] == str(out)
    columns = min(5, len(found["answers"]))
    with Image.open(out) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width // PICTURE == columns
    return found


def test_a_text_finds_what_the_model_finds_nearest(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(capsys, make_index(folder, export), "red dogs", "--top", "3")
    model = VLModel.from_pretrained(export)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    score_N = model.encode_image(paths) @ model.encode_text("red dogs")[0]
    order = score_N.argsort(descending=True)[:3].tolist()
    assert [answer["path"] for answer in found["answers"]] == [str(paths[row]) for row in order]
    assert [answer["rank"] for answer in found["answers"]] == [1, 2, 3]
    scores = [answer["score"] for answer in found["answers"]]
    assert scores == pytest.approx(score_N[order].tolist(), abs=1e-5)
    assert (found["num_images"], found["exact"], found["skipped"]) == (7, True, [])


def test_a_picture_finds_itself_first(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = make_index(folder, export)
    found = ask(capsys, index, "--image", str(folder / "below" / "green.png"), "--top", "99")
    assert found["answers"][0]["file"] == os.path.join("below", "green.png")
    assert found["answers"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert len(found["answers"]) == 7  # all there are


def test_re_ranking_puts_the_first_in_the_order_of_the_matching_head(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = make_index(folder, export)
    plain = ask(capsys, index, "red dogs", "--top", "7")["answers"]
    found = ask(capsys, index, "red dogs", "--top", "7", "--rerank", "5")["answers"]
    model = VLModel.from_pretrained(export)
    match_P = model.match([answer["path"] for answer in plain[:5]], ["red dogs"] * 5)
    order = match_P.argsort(descending=True).tolist()
    assert [answer["file"] for answer in found] == [
        *(plain[row]["file"] for row in order),
        *(answer["file"] for answer in plain[5:]),
    ]
    shown = [answer["match"] for answer in found[:5]]
    assert shown == pytest.approx(match_P[order].tolist(), abs=1e-5)
    assert not any("match" in answer for answer in found[5:])
    few = ask(capsys, index, "red dogs", "--top", "2", "--rerank", "5")["answers"]
    assert few == found[:2]


def test_a_second_time_only_new_and_changed_pictures_are_read(
    export: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index = make_index(folder, export)
    before = {file.name: row for row, file in enumerate(load_index(index).files)}
    old_NE = load_index(index).embedding_NE
    (folder / "red.png").unlink()
    Image.new("RGB", (44, 44), "pink").save(folder / "new.png")
    Image.new("RGB", (80, 44), "grey").save(folder / "blue.png")
    read = watch_reading(monkeypatch)
    make_index(folder, export)
    assert sorted(path.name for path in read) == ["blue.png", "new.png"]
    assert "7 pictures, 2 of them new" in capsys.readouterr().err
    again = load_index(index)
    expected = VLModel.from_pretrained(export).encode_image(
        [again.path_of(row) for row in range(len(again.files))]
    )
    torch.testing.assert_close(again.embedding_NE, expected, rtol=0, atol=1e-5)
    kept = [file.name for file in again.files if file.name in before and file.name != "blue.png"]
    for row, file in enumerate(again.files):
        if file.name in kept:
            assert torch.equal(again.embedding_NE[row], old_NE[before[file.name]])


def watch_reading(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    original = index_images.read_picture

    def noted(path: Path, size: int) -> torch.Tensor | str:
        read.append(path)
        return original(path, size)

    monkeypatch.setattr(index_images, "read_picture", noted)
    return read


def test_an_index_of_another_model_is_made_anew(
    export: Path, other_export: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_index(folder, export)
    read = watch_reading(monkeypatch)
    make_index(folder, other_export)
    assert len(read) == 7
    assert load_index(index).model == other_export.resolve()


def test_pictures_that_cannot_be_read_are_skipped_named_and_counted(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "gone.webp").symlink_to(folder / "nowhere")
    index = make_index(folder, export, "--batch", "2")
    said = capsys.readouterr().err
    assert "skipped broken.jpg: " in said
    assert "skipped gone.webp: No such file" in said
    assert "7 pictures, 7 of them new" in said
    assert "2 pictures skipped" in said
    first = ask(capsys, index, "red dogs", "--top", "1")["answers"][0]["file"]
    (folder / first).unlink()
    found = ask(capsys, index, "red dogs", "--top", "7")
    assert [one["file"] for one in found["skipped"]] == [first]
    assert len(found["answers"]) == 6
    for path in folder.rglob("*.[pP]*"):
        path.unlink()
    assert main(["search", "red dogs", "--index", str(index)]) == 2
    assert "none of the 7 nearest pictures can be read any more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["search", "", "--index", "{index}"], "the text is empty"),
        (["search", " \n", "--index", "{index}"], "the text is empty"),
        (["search", "--index", "{index}"], "search needs a text, or a picture"),
        (["search", "dogs", "--image", "{red}", "--index", "{index}"], "and not both"),
        (["search", "--image", "{red}", "--rerank", "3", "--index", "{index}"], "--rerank"),
        (["search", "--image", "{notes}", "--index", "{index}"], "notes.txt"),
        (["search", "dogs", "--index", "{index}", "--top", "0"], "--top"),
        (["search", "dogs", "--index", "{index}", "--out", "answer.jpg"], "no PNG file"),
        (["search", "dogs", "--index", "absent"], "there is no such index"),
        (["search", "dogs", "--index", "{weights}"], "is no index of pictures"),
        (["search", "dogs", "--index", "{index}", "--model", "{other}"], "the weights differ"),
        (["search", "dogs", "--index", "{index}", "--model", "{red}"], "no model was saved here"),
        (["search", "dogs", "--index", "{index}", "--faiss"], "faiss is not installed"),
        (["index-images", "{pictures}"], "--model"),
        (["index-images", "{empty}", "--model", "{export}"], "holds no picture"),
        (["index-images", "{broken}", "--model", "{export}"], "none of the 1 pictures can be read"),
        (["index-images", "absent", "--model", "{export}"], "there is no such folder"),
        (["index-images", "{pictures}", "--model", "{pictures}"], "no model was saved here"),
        (
            ["index-images", "{pictures}", "--model", "{export}", "--out", "{weights}"],
            "is no index of pictures",
        ),
        (["index-images", "{pictures}", "--model", "{export}", "--faiss"], "not installed"),
        (["index-images", "{pictures}", "--model", "{export}", "--out", "{empty}"], "{empty}"),
        (
            ["index-images", "{pictures}", "--model", "{export}", "--out", "{red}/new"],
            "can't be written",
        ),
        (["search", "dogs", "--index", "{index}", "--out", "{red}/a.png"], "can't be written"),
    ],
)
def test_a_mistake_ends_with_code_2_a_message_and_nothing_written(
    arguments: list[str],
    expected: str,
    export: Path,
    other_export: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    home = folder.parent
    monkeypatch.chdir(home)
    names = {"index": home / "index.safetensors", "export": export, "other": other_export}
    names |= {"pictures": folder, "red": folder / "red.png", "notes": folder / "notes.txt"}
    names |= {"empty": home / "empty", "broken": home / "broken", "weights": home / "w.safetensors"}
    make_index(folder, export)
    save_file({"weight": torch.ones(2)}, names["weights"])
    for name in ("empty", "broken"):
        names[name].mkdir()
    (names["broken"] / "one.jpg").write_bytes(b"\xff\xd8 no picture")
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main([argument.format(**names) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert expected.format(**names) in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert before == {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}


def test_faiss_finds_the_same_in_a_small_index(
    export: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    index = make_index(folder, export, "--faiss")
    exact, found = (ask(capsys, index, "red dogs", *more) for more in ((), ("--faiss",)))
    assert [a["file"] for a in found["answers"]] == [a["file"] for a in exact["answers"]]
    assert (exact["exact"], found["exact"]) == (True, False)
    make_index(folder, export)
    assert main(["search", "red dogs", "--index", str(index), "--faiss"]) == 2
    assert "no faiss index beside" in capsys.readouterr().err
