"""Shards out of pictures and any caption file: nothing lost in silence, nothing half-written."""

import csv
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import data_tools.assembly as assembly
from data_tools.assembly import WritingOptions
from data_tools.caption_rows import CaptionOptions
from data_tools.cli import main
from data_tools.make import MakeOptions, MakeReport, make_shards
from vlpretrain.errors import UserError

CAPTIONS = {
    "a.jpg": ["a red thing", "it is red, isn't it"],
    "b.png": ["a green thing"],
    "sub/c.webp": ['"café" said the señora', "naïve"],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    for number, name in enumerate(CAPTIONS):
        picture = Image.new("RGB", (64, 40), (80 * number, 120, 30))
        picture.save(folder / name)
    return folder


def make(
    images: Path, captions: Path, out: Path, options: MakeOptions | None = None, **reading: str
) -> MakeReport:
    return make_shards(images, captions, out, CaptionOptions(**reading), options or MakeOptions())


def records(out: Path) -> dict[str, dict]:
    """Every sample's JSON by its file_name, with its other members' bytes under "members"."""
    samples: dict[str, dict] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                samples.setdefault(f"{path.name}/{key}", {})[extension] = tar.extractfile(
                    member
                ).read()
    found = {}
    for members in samples.values():
        record = json.loads(members.pop("json"))
        found[record["file_name"]] = record | {"members": members}
    return found


def captions_of(out: Path) -> dict[str, list[str]]:
    return {name: record["captions"] for name, record in records(out).items()}


def rows() -> list[tuple[str, str]]:
    return [(name, caption) for name, captions in CAPTIONS.items() for caption in captions]


def write_table(path: Path, delimiter: str, encoding: str, header: tuple[str, str]) -> Path:
    with path.open("w", newline="", encoding=encoding) as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows()])
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_tables_of_any_delimiter_and_encoding_are_recognised(images, tmp_path, delimiter, encoding):
    table = write_table(tmp_path / "t.csv", delimiter, encoding, ("Filename", "Text"))
    report = make(images, table, tmp_path / "out")
    assert captions_of(tmp_path / "out") == CAPTIONS
    assert report.understood["encoding"] in (encoding, "cp1252")
    assert "'Filename'" in report.understood["columns"]


def test_curly_quotes_of_windows_are_read(images, tmp_path):
    (tmp_path / "t.csv").write_bytes("image,caption\na.jpg,“red” – quite\n".encode("cp1252"))
    make(images, tmp_path / "t.csv", tmp_path / "out")
    assert captions_of(tmp_path / "out") == {"a.jpg": ["“red” – quite"]}


def test_what_is_recognised_can_be_overridden(images, tmp_path):
    lines = ["caption#image#says", "x#a.jpg#a red thing"]
    (tmp_path / "t.data").write_text("\n".join(lines))
    make(
        images,
        tmp_path / "t.data",
        tmp_path / "out",
        format="csv",
        delimiter="#",
        caption_column="says",
        encoding="latin-1",
    )
    assert captions_of(tmp_path / "out") == {"a.jpg": ["a red thing"]}


def test_a_wrong_encoding_is_refused(images, tmp_path):
    table = write_table(tmp_path / "t.csv", ",", "latin-1", ("image", "caption"))
    with pytest.raises(UserError, match="not utf-8"):
        make(images, table, tmp_path / "out", encoding="utf-8")
    with pytest.raises(UserError, match="unknown encoding 'klingon'"):
        make(images, table, tmp_path / "out", encoding="klingon")


def test_numbered_captions_without_a_header(images, tmp_path):
    lines = [f"{name}#{number}\t{text}" for number, (name, text) in enumerate(rows())]
    (tmp_path / "flickr.token.txt").write_text("\n".join(lines), encoding="utf-8")
    make(images, tmp_path / "flickr.token.txt", tmp_path / "out")
    assert captions_of(tmp_path / "out") == CAPTIONS


def test_a_last_column_without_quotes_keeps_its_commas(images, tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,red, round, ripe\n")
    make(images, tmp_path / "t.csv", tmp_path / "out")
    assert captions_of(tmp_path / "out") == {"a.jpg": ["red, round, ripe"]}


def write_json_lines(path: Path) -> None:
    lines = [{"image_path": name, "captions": texts} for name, texts in CAPTIONS.items()]
    path.write_text("\n".join(json.dumps(line) for line in lines))


def write_parquet(path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    names, texts = zip(*rows(), strict=True)
    parquet.write_table(pa.table({"file": names, "text": texts}), path)


def write_coco(path: Path) -> None:
    images = [{"id": 7 + n, "file_name": name, "license": 1} for n, name in enumerate(CAPTIONS)]
    numbers = {image["file_name"]: image["id"] for image in images}
    annotations = [{"image_id": numbers[name], "caption": text} for name, text in rows()]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def write_karpathy(path: Path) -> None:
    images = []
    for number, (name, texts) in enumerate(CAPTIONS.items()):
        folder, _, file = name.rpartition("/")
        sentences = [{"raw": text} for text in texts]
        split = "val" if number == 1 else "train"
        image = {"filepath": folder, "filename": file, "imgid": 7 + number, "split": split}
        images.append(image | {"sentences": sentences})
    path.write_text(json.dumps({"images": images, "dataset": "made up"}))


WRITERS = {
    "t.jsonl": write_json_lines,
    "t.parquet": write_parquet,
    "coco.json": write_coco,
    "karpathy.json": write_karpathy,
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_every_format_gives_the_same_samples(images, tmp_path, name):
    WRITERS[name](tmp_path / name)
    make(images, tmp_path / name, tmp_path / "out")
    assert captions_of(tmp_path / "out") == CAPTIONS
    if name.endswith(".json"):
        assert [record["image_id"] for record in records(tmp_path / "out").values()] == [7, 8, 9]


def test_a_split_is_chosen_and_a_wrong_one_is_told_what_there_is(images, tmp_path):
    write_karpathy(tmp_path / "k.json")
    make(images, tmp_path / "k.json", tmp_path / "out", MakeOptions(split="val"))
    assert list(captions_of(tmp_path / "out")) == ["b.png"]
    with pytest.raises(UserError, match="train, val"):
        make(images, tmp_path / "k.json", tmp_path / "none", MakeOptions(split="dev"))


def test_a_list_of_pictures_chooses_them(images, tmp_path):
    table = write_table(tmp_path / "t.csv", ",", "utf-8", ("image", "caption"))
    (tmp_path / "list.txt").write_text("b.png\n")
    make(images, table, tmp_path / "out", MakeOptions(only=tmp_path / "list.txt"))
    assert list(captions_of(tmp_path / "out")) == ["b.png"]


def test_pictures_are_stored_untouched_with_an_index_beside(images, tmp_path):
    table = write_table(tmp_path / "t.csv", ",", "utf-8", ("image", "caption"))
    options = MakeOptions(writing=WritingOptions(shard_size=2))
    written = make(images, table, tmp_path / "out", options).written
    assert (written.shards, written.samples, written.captions) == (2, 3, 5)
    for name, record in records(tmp_path / "out").items():
        (data,) = record["members"].values()
        assert data == (images / name).read_bytes()
    assert len(list((tmp_path / "out").glob("*.tar.idx"))) == 2


def test_resize_turns_upright_shrinks_and_never_enlarges(tmp_path):
    turned = Image.new("RGB", (200, 100), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    Image.new("P", (90, 60)).save(tmp_path / "moving.gif")
    (tmp_path / "t.csv").write_text("image,caption\nturned.jpg,x\nsmall.png,y\nmoving.gif,z\n")
    report = make(
        tmp_path,
        tmp_path / "t.csv",
        tmp_path / "out",
        MakeOptions(writing=WritingOptions(resize=50)),
    )
    sizes = {}
    for name, record in records(tmp_path / "out").items():
        (sizes[name],) = [
            (extension, Image.open(io.BytesIO(data)).size)
            for extension, data in record["members"].items()
        ]
    assert sizes["turned.jpg"] == ("jpg", (50, 100))
    assert sizes["small.png"] == ("png", (30, 20))
    assert sizes["moving.gif"] == ("jpg", (75, 50))
    assert report.written.converted == 2


def broken_folder(tmp_path: Path) -> Path:
    """Three good captions' pictures of which only one is usable, and blank captions."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("I am no picture")
    lines = ["good.png,fine", "good.png,  ", "empty.jpg,x", "text.jpg,y", "good.png,"]
    lines += [f"gone{number}.jpg,z" for number in range(7)]
    (tmp_path / "t.csv").write_text("\n".join(["image,caption", *lines, "blank.png,"]))
    return folder


def test_what_is_left_out_is_counted_and_named(tmp_path, capsys):
    folder = broken_folder(tmp_path)
    arguments = ["--images", folder, "--captions", tmp_path / "t.csv", "--out", tmp_path / "out"]
    assert main(["make", *map(str, arguments)]) == 0
    shown = capsys.readouterr().out
    assert (
        "7 pictures missing: gone0.jpg, gone1.jpg, gone2.jpg, gone3.jpg, gone4.jpg, and 2" in shown
    )
    assert "gone5" not in shown
    assert "2 files that are no usable picture: empty.jpg (zero bytes), text.jpg" in shown
    assert "3 blank captions" in shown
    assert "1 pictures without any caption" in shown
    assert captions_of(tmp_path / "out") == {"good.png": ["fine"]}


def test_strict_stops_at_missing_pictures_and_leaves_nothing(tmp_path):
    folder = broken_folder(tmp_path)
    with pytest.raises(UserError, match="7 pictures missing"):
        make(
            folder,
            tmp_path / "t.csv",
            tmp_path / "out",
            MakeOptions(writing=WritingOptions(strict=True)),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "t.csv"]


def test_strict_stops_at_a_broken_picture_and_leaves_nothing(tmp_path):
    folder = broken_folder(tmp_path)
    (tmp_path / "t.csv").write_text("image,caption\ngood.png,fine\ntext.jpg,no\n")
    with pytest.raises(UserError, match="text.jpg"):
        make(
            folder,
            tmp_path / "t.csv",
            tmp_path / "out",
            MakeOptions(writing=WritingOptions(strict=True)),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "t.csv"]


def test_a_failure_in_the_middle_leaves_the_old_shards_alone(images, tmp_path, monkeypatch, capsys):
    table = write_table(tmp_path / "t.csv", ",", "utf-8", ("image", "caption"))
    make(images, table, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    calls = []

    def full_disk(path: str) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(assembly, "load_index", full_disk)
    arguments = ["--images", images, "--captions", table, "--out", tmp_path / "out"]
    assert main(["make", *map(str, arguments), "--shard-size", "1", "--overwrite"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "t.csv"]


@pytest.mark.parametrize(
    ("name", "content", "reading", "message"),
    [
        ("t.csv", "image,caption\n", {"caption_column": "captoin"}, "did you mean 'caption'"),
        ("t.csv", "image,words\na.jpg,x\n", {}, "there are|one of 'image', 'words'"),
        ("t.csv", "onecolumn\nx\n", {}, "no delimiter"),
        ("t.csv", "", {}, "first line is empty"),
        ("t.csv", "image,caption\nnowhere.jpg,x\n", {}, "1 pictures missing: nowhere.jpg"),
        ("t.csv", "image,caption\n", {}, "no picture with a caption"),
        ("t.csv", "image,caption\na.jpg,x\n", {"delimiter": "<>"}, "'<>' is no delimiter"),
        ("t.jsonl", '{"image": "a.jpg", "caption": "x"}\n{"image"', {}, r"t\.jsonl:2"),
        ("t.jsonl", '{"image": "a.jpg", "caption": {"a": 1}}', {}, "a text or a list of texts"),
        ("t.json", '{"no": "form"}', {}, "no known form"),
        ("t.json", "{", {}, "not JSON"),
        ("t.parquet", "nonsense", {}, "Parquet"),
        ("t.xlsx", "x", {}, "--format"),
        ("t.json", '{"images": [{"id": 1}], "annotations": [{"image_id": 1}]}', {}, "captions_"),
    ],
)
def test_mistakes_are_answered_with_the_place_and_the_fix(
    images, tmp_path, name, content, reading, message
):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        make(images, tmp_path / name, tmp_path / "out", **reading)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_parquet_without_pyarrow_says_what_to_install(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "t.parquet").touch()
    with pytest.raises(UserError, match="vlpretrain\\[parquet\\]"):
        make(images, tmp_path / "t.parquet", tmp_path / "out")


def test_a_megabyte_caption_survives(images, tmp_path):
    text = "word " * 200_000
    (tmp_path / "t.csv").write_text(f"image,caption\na.jpg,{text}\n")
    make(images, tmp_path / "t.csv", tmp_path / "out")
    assert captions_of(tmp_path / "out") == {"a.jpg": [text.strip()]}
