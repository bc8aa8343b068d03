"""Caption data sets and class folders become shards; their splits are taken and checked."""

from pathlib import Path
from typing import Any

import pytest
from converted_shards import draw, names_in, samples_of, write_json

from data_tools.cli import main
from data_tools.convert.published import PUBLISHED, Published, check_published, recognise_split

FIVE = [f"caption {number} of it" for number in range(5)]


def run(*arguments: object) -> int:
    return main(["convert", *map(str, arguments)])


def karpathy_file(path: Path, folder: Path) -> Path:
    """Pictures of every split, with two captions each."""
    images: list[dict[str, Any]] = []
    for number, split in enumerate(("train", "restval", "val", "test", "restval")):
        name = f"COCO_val2014_{number:012d}.jpg"
        draw(folder / "val2014" / name, number)
        sentences = [{"raw": f"picture {number} said {n}", "tokens": []} for n in range(2)]
        image = {"filepath": "val2014", "filename": name, "cocoid": number, "split": split}
        images.append(image | {"sentences": sentences})
    return write_json(path, {"images": images, "dataset": "coco"})


def test_karpathys_restval_is_train_unless_told_otherwise(tmp_path, capsys):
    captions = karpathy_file(tmp_path / "dataset_coco.json", tmp_path / "images")
    common = ["coco", "--captions", captions, "--images", tmp_path / "images", "--split", "train"]
    assert run(*common, "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "restval: counted as train" in shown
    assert "warning: train: 6 captions over 3 pictures; published are 566,747 captions and" in shown
    samples = samples_of(tmp_path / "out")
    assert [sample["image_id"] for sample in samples] == [0, 1, 4]
    assert {sample["split"] for sample in samples} == {"train"}
    assert samples[1]["captions"] == ["picture 1 said 0", "picture 1 said 1"]
    assert run(*common, "--out", tmp_path / "apart", "--restval", "apart") == 0
    assert [sample["image_id"] for sample in samples_of(tmp_path / "apart")] == [0]


def coco_file(path: Path, folder: Path, ids: list[int]) -> Path:
    images = [
        {"id": number, "file_name": f"COCO_train2014_{place:012d}.jpg"}
        for place, number in enumerate(ids)
    ]
    for place in range(len(ids)):
        draw(folder / f"{place:012d}.jpg", place)
    annotations = [
        {"id": 10 * number + n, "image_id": number, "caption": text}
        for n, text in enumerate(FIVE)
        for number in ids
    ]
    return write_json(path, {"images": images, "annotations": annotations})


def test_coco_keeps_all_captions_and_finds_pictures_under_their_newer_names(tmp_path, capsys):
    captions = coco_file(tmp_path / "captions_train2014.json", tmp_path / "images", [5, 9])
    arguments = ["--captions", captions, "--images", tmp_path / "images", "--out", tmp_path / "out"]
    assert run("coco", *arguments, "--strict") == 0
    assert "warning: train2014: 10 captions over 2 pictures" in capsys.readouterr().out
    samples = samples_of(tmp_path / "out")
    assert [sample["captions"] for sample in samples] == [FIVE, FIVE]
    assert [sample["image_id"] for sample in samples] == [5, 9]


def test_two_pictures_under_one_id_are_both_named(tmp_path, capsys):
    captions = coco_file(tmp_path / "captions.json", tmp_path / "images", [5, 5])
    arguments = ["--captions", captions, "--images", tmp_path / "images", "--out", tmp_path / "out"]
    assert run("coco", *arguments) == 2
    shown = capsys.readouterr().err
    assert "two pictures under one id, 5: COCO_train2014_000000000000.jpg and" in shown
    assert "COCO_train2014_000000000001.jpg" in shown
    assert names_in(tmp_path) == ["captions.json", "images"]


def test_a_caption_file_without_splits_says_so(tmp_path, capsys):
    captions = coco_file(tmp_path / "captions.json", tmp_path / "images", [5])
    arguments = ["--captions", captions, "--images", tmp_path / "images", "--out", tmp_path / "out"]
    assert run("coco", *arguments, "--split", "val") == 2
    shown = capsys.readouterr().err
    assert "says nothing of splits" in shown
    assert "'val'" in shown
    assert "--only" in shown
    assert names_in(tmp_path) == ["captions.json", "images"]


def flickr8k_files(folder: Path) -> tuple[Path, Path]:
    names = [f"{number}_a1b2.jpg" for number in range(3)]
    for number, name in enumerate(names):
        draw(folder / "images" / name, number)
    # The official file speaks of one picture whose name ends so, and that isn't in the download.
    lines = [f"{name}#{n}\t{text}" for name in [*names, "3.jpg.1"] for n, text in enumerate(FIVE)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines))
    (folder / "Flickr_8k.devImages.txt").write_text("\n".join(names[1:]))
    return folder / "Flickr8k.token.txt", folder / "Flickr_8k.devImages.txt"


def test_flickr8k_takes_the_pictures_of_a_list(tmp_path, capsys):
    captions, only = flickr8k_files(tmp_path)
    arguments = ["--captions", captions, "--images", tmp_path / "images", "--only", only]
    assert run("flickr8k", *arguments, "--out", tmp_path / "out") == 0
    assert (
        "warning: dev: 10 captions over 2 pictures; published are 5,000" in capsys.readouterr().out
    )
    samples = samples_of(tmp_path / "out")
    assert [sample["file_name"] for sample in samples] == ["1_a1b2.jpg", "2_a1b2.jpg"]
    assert [sample["captions"] for sample in samples] == [FIVE, FIVE]


def test_flickr8k_as_a_whole_names_the_one_picture_that_is_not_in_it(tmp_path, capsys):
    captions, _ = flickr8k_files(tmp_path)
    arguments = ["--captions", captions, "--images", tmp_path / "images", "--out", tmp_path / "out"]
    assert run("flickr8k", *arguments) == 0
    shown = capsys.readouterr().out
    assert "1 pictures missing: 3.jpg.1" in shown
    assert "warning: all: 20 captions over 4 pictures; published are 40,460 captions" in shown


@pytest.mark.parametrize("form", ["token", "csv", "karpathy"])
def test_flickr30k_in_each_of_its_forms(tmp_path, form):
    names = ["1000092795.jpg", "10002456.jpg"]
    for number, name in enumerate(names):
        draw(tmp_path / "images" / name, number)
    rows = [(name, n, text) for name in names for n, text in enumerate(FIVE)]
    path, chosen = tmp_path / "results_20130124.token", []
    if form == "token":
        path.write_text("\n".join(f"{name}#{n}\t{text}" for name, n, text in rows))
    elif form == "csv":
        path = tmp_path / "results.csv"
        lines = [f"{name}| {n}| {text}" for name, n, text in rows]
        path.write_text("\n".join(["image_name| comment_number| comment", *lines]))
    else:
        images = [
            {"filename": name, "split": split, "sentences": [{"raw": text} for text in FIVE]}
            for name, split in (*((name, "test") for name in names), ("other.jpg", "train"))
        ]
        path, chosen = tmp_path / "dataset_flickr30k.json", ["--split", "test"]
        write_json(path, {"images": images, "dataset": "flickr30k"})
    arguments = ["--captions", path, "--images", tmp_path / "images", "--out", tmp_path / "out"]
    assert run("flickr30k", *arguments, "--strict", *chosen) == 0
    samples = samples_of(tmp_path / "out")
    assert [(sample["file_name"], sample["captions"]) for sample in samples] == [
        (name, FIVE) for name in names
    ]


def test_csv_is_a_table_of_ones_own(tmp_path):
    draw(tmp_path / "images" / "a.png", 1)
    (tmp_path / "t.csv").write_text("picture#says#split\na.png#red#train\na.png#blue#train\n")
    arguments = ["--captions", tmp_path / "t.csv", "--images", tmp_path / "images"]
    chosen = ["--delimiter", "#", "--caption-column", "says", "--split", "train"]
    assert run("csv", *arguments, *chosen, "--out", tmp_path / "out") == 0
    (sample,) = samples_of(tmp_path / "out")
    assert sample["captions"] == ["red", "blue"]
    assert sample["split"] == "train"


def class_folders(folder: Path) -> Path:
    for number in range(20):
        draw(folder / ("cat" if number % 2 else "dog") / f"{number}.png", number)
    return folder


def test_class_folders_become_labels_and_classes_are_mixed(tmp_path, capsys):
    images = class_folders(tmp_path / "images")
    (images / "empty").mkdir()
    (images / "cat" / "notes.md").write_text("x")
    assert run("folders", "--images", images, "--out", tmp_path / "out", "--split", "val") == 0
    shown = capsys.readouterr().out
    assert "2 classes: cat, dog" in shown
    assert "1 folders without a picture left out: empty" in shown
    assert "1 files that are no picture by their name: cat/notes.md" in shown
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 20
    for sample in samples:
        assert sample["image_id"] == f"{sample['label']}/{sample['file_name']}"
        assert sample["split"] == "val"
        source = images / sample["image_id"]
        assert sample["members"] == {"png": source.read_bytes()}
    assert {sample["label"] for sample in samples[:10]} == {"cat", "dog"}


def test_folders_above_the_classes_are_told_from_them(tmp_path, capsys):
    class_folders(tmp_path / "images" / "train")
    assert run("folders", "--images", tmp_path / "images", "--out", tmp_path / "out") == 2
    shown = capsys.readouterr().err
    assert "0 class folders" in shown
    assert str(tmp_path / "images" / "train") in shown
    assert names_in(tmp_path) == ["images"]


def test_a_published_size_is_confirmed_or_doubted_with_both_numbers():
    assert (
        check_published("easy_vqa", "train", 4_000, 38_575, "questions")
        == "train: 38,575 questions over 4,000 pictures, as published"
    )
    doubted = check_published("easy_vqa", "train", 4_000, 38_574, "questions")
    assert doubted == (
        "warning: train: 38,574 questions over 4,000 pictures; published are 38,575 questions"
    )
    assert check_published("jsonl", "", 1, 2, "questions") == "2 questions over 1 pictures"
    assert PUBLISHED["nlvr2"]["dev"] == Published(None, 6_982)


@pytest.mark.parametrize(
    ("data_set", "path", "split"),
    [
        ("easy_vqa", "train/questions.json", "train"),
        ("gqa", "x/testdev_balanced_questions.json", "testdev_balanced"),
        ("gqa", "x/train_all_questions.json", ""),
        ("vizwiz", "Annotations/val.json", "val"),
        ("coco", "annotations/captions_val2017.json", "val2017"),
        ("coco", "dataset_coco.json", ""),
        ("flickr8k", "Flickr_8k.testImages.txt", "test"),
        ("nlvr2", "data/test1.json", "test1"),
        ("vizwiz", "train_and_val.json", ""),
        ("csv", "train.csv", ""),
    ],
)
def test_a_split_is_recognised_by_the_files_name_or_its_folders(tmp_path, data_set, path, split):
    assert recognise_split(data_set, tmp_path / path) == split
