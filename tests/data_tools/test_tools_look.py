"""Index, inspect, validate and tokenizer: what is in the shards, and all that is wrong there."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from data_tools.cli import main
from data_tools.contact_sheet import Tile, draw_contact_sheet
from data_tools.synth import SynthOptions, synthesise
from data_tools.validation import find_problems
from vlpretrain.data.tokenise import load_tokeniser
from vlpretrain.lettering import wrap

Members = list[tuple[str, bytes]]


def picture(colour: str = "red", form: str = "JPEG", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format=form)
    return buffer.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_json(record: object) -> bytes:
    return json.dumps(record).encode()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """As img2dataset writes them: jpg, txt and json; the last two pictures are the same."""
    for shard in range(2):
        members: Members = []
        for number in range(3):
            key = f"{shard:05d}{number:04d}"
            caption = f"picture number {shard} {number}"
            note = {"caption": caption, "url": "http://there", "status": "success", "key": key}
            colour = "blue" if shard and number else f"#{shard}{number}{number}"
            members.append((f"{key}.jpg", picture(colour)))
            members.append((f"{key}.txt", caption.encode()))
            members.append((f"{key}.json", as_json(note)))
        write_tar(tmp_path / "shards" / f"{shard:05d}.tar", members)
    return tmp_path / "shards"


def test_inspect_counts_shards_of_img2dataset(shards, tmp_path, capsys):
    assert main(["inspect", str(shards), "--out", str(tmp_path / "look")]) == 0
    shown = capsys.readouterr().out
    assert "2 shards, 6 samples" in shown
    assert "6 JPEG RGB" in shown
    assert "1 pictures, 0 captions" in shown
    record = json.loads((tmp_path / "look" / "inspect.json").read_text())
    assert [shard["samples"] for shard in record["shards"]] == [3, 3]
    assert record["pictures"]["width"]["median"] == 40
    assert record["captions"]["words"] == {"min": 4, "median": 4, "p95": 4, "max": 4, "mean": 4}
    assert record["captions"]["per_picture"]["max"] == 1


def test_inspect_counts_questions_and_repeated_captions(tmp_path, capsys):
    questions = [{"question": "what?", "answers": ["red"], "question_type": "colour"}]
    note = as_json({"captions": ["One  thing", "one thing"], "questions": questions})
    write_tar(tmp_path / "a.tar", [("a.png", picture(form="PNG")), ("a.json", note)])
    main(["inspect", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "0 pictures, 1 captions" in shown
    assert "1 colour" in shown


def test_inspect_counts_both_pictures_of_a_pair_and_labels(tmp_path, capsys):
    members: Members = []
    for number, label in enumerate(("cat", "dog", "cat")):
        members.append((f"{number}.jpg", picture(f"#00{number}")))
        members.append((f"{number}.json", as_json({"label": label})))
    members += [("p.0.jpg", picture("red")), ("p.1.jpg", picture("blue"))]
    asked = {"question": "alike?", "answers": ["false"]}
    members.append(("p.json", as_json({"questions": [asked, asked]})))
    write_tar(tmp_path / "a.tar", members)
    assert main(["inspect", str(tmp_path), "--out", str(tmp_path / "look")]) == 0
    shown = capsys.readouterr().out
    assert "pictures    5 " in shown
    assert "labels      3  (2 cat, 1 dog)" in shown
    assert "questions   2  (2 any)" in shown
    assert "without a caption" not in shown


def test_contact_sheet_shows_the_pictures(shards, tmp_path):
    main(["inspect", str(shards), "--out", str(tmp_path / "look")])
    sheet = Image.open(tmp_path / "look" / "contact_sheet.png").convert("RGB")
    colours = dict(map(reversed, sheet.getcolors(sheet.width * sheet.height)))
    blue = sum(count for (r, g, b), count in colours.items() if b > 240 and r < 15 and g < 15)
    assert blue > 2 * 20 * 20


def test_contact_sheet_survives_anything():
    tiles = [
        Tile(b"no picture", "a" * 500, "key"),
        Tile(picture(size=(2000, 2)), "", "key"),
        Tile(picture(), "многа слов " * 50, "key"),
    ]
    assert draw_contact_sheet(tiles, "title " * 100).size[0] > 300
    assert draw_contact_sheet([], "empty").size[0] > 100


def test_wrapping_fits_the_width_and_says_when_it_cut():
    class EveryLetterTen:
        def getlength(self, text: str) -> float:
            return 10.0 * len(text)

    lines = wrap("one two three four five six", EveryLetterTen(), width=80, lines=2)
    assert lines == ["one two", "three …"]


GOOD = [("ok.jpg", picture()), ("ok.txt", b"fine")]
PLANTED = {
    "broken JPEG": ([("k.jpg", picture()[:200]), ("k.txt", b"x")], "picture"),
    "no picture": ([("k.jpg", b"hello"), ("k.txt", b"x")], "picture"),
    "zero bytes": ([("k.jpg", b""), ("k.txt", b"x")], "zero bytes"),
    "blank text": ([("k.jpg", picture()), ("k.txt", b"  \n")], "blank"),
    "blank caption": (
        [("k.jpg", picture()), ("k.json", as_json({"captions": ["a", ""]}))],
        "blank",
    ),
    "not UTF-8": ([("k.jpg", picture()), ("k.txt", b"\xff\xfe\xff")], "UTF-8"),
    "bad JSON": ([("k.jpg", picture()), ("k.json", b"{")], "JSON"),
    "captions no list": ([("k.jpg", picture()), ("k.json", as_json({"captions": 3}))], "list"),
    "long caption": ([("k.jpg", picture()), ("k.txt", b"w " * 500_000)], "cut"),
    "question": (
        [("k.jpg", picture()), ("k.json", as_json({"questions": [{"question": "why?"}]}))],
        "answers",
    ),
    "second of a pair": ([("k.0.jpg", picture()), ("k.1.jpg", b"hello")], "picture"),
    "nothing": ([("k.json", as_json({"width": 3}))], "neither"),
    "pickle": ([("k.jpg", picture()), ("k.pkl", b"x")], "pickle"),
    "twice": ([("k.jpg", picture()), ("k.jpg", picture())], "twice"),
}


@pytest.mark.parametrize("kind", list(PLANTED))
def test_validate_finds_a_planted_problem_and_nothing_else(tmp_path, kind):
    members, reason = PLANTED[kind]
    path = write_tar(tmp_path / "a.tar", [*GOOD, *members])
    problems = list(find_problems(str(tmp_path)))
    assert problems
    assert {problem.key for problem in problems} == {"k"}
    assert {problem.shard for problem in problems} == {str(path)}
    assert any(reason in problem.reason for problem in problems)


def test_validate_finds_a_cut_tar(shards, capsys):
    path = shards / "00001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert main(["validate", str(shards)]) == 1
    shown = capsys.readouterr().out
    assert str(path) in shown
    assert "00000.tar" not in shown


def test_validate_finds_wrong_indexes(shards):
    main(["index", str(shards)])
    first, second = (Path(f"{path}.idx") for path in sorted(shards.glob("*.tar")))
    first.write_bytes(b"nonsense")
    os.utime(shards / "00001.tar", (1, 1))
    reasons = [problem.reason for problem in find_problems(str(shards))]
    assert len(reasons) == 2
    assert "damaged" in reasons[0]
    assert "another shard" in reasons[1]
    assert list(find_problems(str(shards))) == []


def test_validate_finds_an_index_of_other_content(shards):
    main(["index", str(shards)])
    path = shards / "00000.tar"
    status = path.stat()
    path.write_bytes(path.read_bytes().replace(b"000000001", b"000000007"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (problem,) = find_problems(str(shards))
    assert "does not fit" in problem.reason


def test_good_shards_have_no_problem_in_any_number_of_processes(tmp_path, capsys):
    options = SynthOptions(samples=12, shard_size=5, image_size=32)
    synthesise(tmp_path / "s", options, overwrite=False, workers=1)
    assert main(["validate", str(tmp_path / "s"), "--workers", "2"]) == 0
    assert "no problem found" in capsys.readouterr().out


def test_index_writes_files_and_names_damage(shards, capsys):
    path = shards / "00000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    assert main(["index", str(shards)]) == 0
    shown = capsys.readouterr().out
    assert str(path) in shown
    assert len(list(shards.glob("*.idx"))) == 2


def test_tokenizer_is_trained_on_the_captions_and_opens_again(shards, tmp_path):
    out = tmp_path / "tokenizer"
    assert main(["tokenizer", str(shards), "--out", str(out), "--vocab-size", "60"]) == 0
    tokenizer = load_tokeniser(str(out))
    (encoded,) = tokenizer.encode(["picture number"])
    assert len(encoded.ids) == 4
    assert main(["tokenizer", str(shards), "--out", str(out)]) == 2


@pytest.mark.parametrize("command", ["index", "inspect", "validate"])
def test_no_shards_is_a_message_and_exit_code_2(tmp_path, capsys, command):
    assert main([command, str(tmp_path / "nowhere")]) == 2
    shown = capsys.readouterr().err
    assert "nowhere" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("command", ["inspect", "validate"])
def test_addresses_that_run_commands_are_refused(tmp_path, capsys, command):
    mark = tmp_path / "mark"
    assert main([command, f"pipe:touch {mark}"]) == 2
    assert not mark.exists()
    assert "refused" in capsys.readouterr().err
