"""Question data sets in their official formats become shards, or an error that names the place."""

import json
from pathlib import Path
from typing import Any

import pytest
from converted_shards import (
    STRICT,
    convert,
    draw,
    names_in,
    samples_of,
    write_json,
    write_lines,
)

from data_tools.cli import main
from data_tools.convert.annotations import question_opening
from data_tools.convert.formats import QUESTION_FORMATS
from vlpretrain.errors import UserError


def vqa_files(folder: Path, subtype: str = "train2014") -> tuple[Path, Path]:
    """Two pictures: 9 has two questions, 25 has one; pictures in both of COCO's naming styles."""
    asked = [(9000, 9, "What is it?"), (25000, 25, "Is it red?"), (9001, 9, "How many cats?")]
    questions = [
        {"question_id": number, "image_id": image, "question": text}
        for number, image, text in asked
    ]
    annotations = [
        {
            "question_id": number,
            "image_id": image,
            "question_type": text.lower()[:6],
            "answer_type": "other",
            "multiple_choice_answer": "net",
            "answers": [
                {
                    "answer": "net" if n < 7 else "Netting!",
                    "answer_confidence": "yes",
                    "answer_id": n,
                }
                for n in range(1, 11)
            ],
        }
        for number, image, text in asked
    ]
    draw(folder / "images" / "COCO_train2014_000000000009.jpg", 9)
    draw(folder / "images" / "000000000025.jpg", 25)
    said = {"data_subtype": subtype, "data_type": "mscoco"}
    return (
        write_json(folder / "q.json", said | {"questions": questions}),
        write_json(folder / "a.json", said | {"annotations": annotations}),
    )


def test_vqav2_keeps_ten_answers_and_all_questions_of_a_picture(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    report = convert("vqav2", tmp_path, questions, annotations=annotations)
    first, second = samples_of(tmp_path / "out")
    assert (first["image_id"], second["image_id"]) == (9, 25)
    assert first["file_name"] == "COCO_train2014_000000000009.jpg"
    assert second["file_name"] == "000000000025.jpg"
    assert [item["question_id"] for item in first["questions"]] == [9000, 9001]
    assert first["questions"][0]["answers"] == ["net"] * 6 + ["Netting!"] * 4
    assert first["questions"][0]["question_type"] == "what i"
    assert first["questions"][0]["answer_type"] == "other"
    assert {sample["split"] for sample in (first, second)} == {"train"}
    assert report.published.startswith("warning: train: 3 questions over 2 pictures; published are")
    assert "443,757 questions and 82,783 pictures" in report.published


def test_vqav2_finds_pictures_in_folders_of_their_subset(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    for number in (9, 25):
        name = f"COCO_train2014_{number:012d}.jpg"
        draw(tmp_path / "images" / "train2014" / name, number)
    convert("vqav2", tmp_path, questions, annotations=annotations, writing=STRICT)
    assert len(samples_of(tmp_path / "out")) == 2


def test_vqav2_without_answers_names_the_questions_or_is_allowed(tmp_path):
    questions, _ = vqa_files(tmp_path, "test-dev2015")
    with pytest.raises(UserError, match="3 questions without an answer.*: 9000, 9001, 25000"):
        convert("vqav2", tmp_path, questions)
    assert "out" not in names_in(tmp_path)
    report = convert("vqav2", tmp_path, questions, allow_unanswered=True)
    assert report.unanswered == 3
    assert samples_of(tmp_path / "out")[0]["questions"][0]["answers"] == []
    assert samples_of(tmp_path / "out")[0]["split"] == "test-dev"


def test_vqav2_one_missing_answer_is_named_by_its_question(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    content = json.loads(annotations.read_text())
    content["annotations"].pop()
    write_json(annotations, content)
    with pytest.raises(UserError, match="1 questions without an answer.*: 9001"):
        convert("vqav2", tmp_path, questions, annotations=annotations)


@pytest.mark.parametrize("change", ["subtype", "ids", "pictures"])
def test_vqav2_annotations_of_other_questions_are_refused(tmp_path, change):
    questions, annotations = vqa_files(tmp_path)
    content = json.loads(annotations.read_text())
    if change == "subtype":
        content["data_subtype"] = "val2014"
    for annotation in content["annotations"]:
        annotation["question_id"] += 1_000_000 if change == "ids" else 0
        annotation["image_id"] += 1 if change == "pictures" else 0
    write_json(annotations, content)
    with pytest.raises(UserError, match="belong to other questions"):
        convert("vqav2", tmp_path, questions, annotations=annotations)
    assert "out" not in names_in(tmp_path)


def test_answers_to_further_questions_are_left_out_and_counted(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    content = json.loads(questions.read_text())
    content["questions"] = content["questions"][:1]
    write_json(questions, content)
    report = convert("vqav2", tmp_path, questions, annotations=annotations)
    assert report.notes == ["2 answers to other questions left out"]
    assert len(samples_of(tmp_path / "out")) == 1


def test_two_files_under_one_id_are_an_error_unless_they_are_equal(tmp_path):
    questions, annotations = vqa_files(tmp_path)
    first = tmp_path / "images" / "COCO_train2014_000000000009.jpg"
    second = tmp_path / "images" / "000000000009.jpg"
    second.write_bytes(first.read_bytes())
    convert("vqav2", tmp_path, questions, annotations=annotations)
    draw(second, 5)
    names = f"two pictures under one id: {first.name} and {second.name}"
    with pytest.raises(UserError, match=names):
        convert("vqav2", tmp_path, questions, "other", annotations=annotations)
    assert "other" not in names_in(tmp_path)


def gqa_question(image: str, answer: str | None, structural: str = "query") -> dict[str, Any]:
    question: dict[str, Any] = {
        "semantic": [{"operation": "select", "argument": "x", "dependencies": []}],
        "imageId": image,
        "question": "What is on the table?",
        "types": {"structural": structural, "semantic": "rel", "detailed": "relS"},
        "groups": {"global": "food", "local": "1-table"},
        "isBalanced": True,
    }
    return question | ({} if answer is None else {"answer": answer, "fullAnswer": "It is that."})


def test_gqa_types_and_answers(tmp_path):
    draw(tmp_path / "images" / "2370799.jpg", 1)
    draw(tmp_path / "images" / "n161313.jpg", 2)
    content = {
        "02930152": gqa_question("2370799", "pizza"),
        "07333408": gqa_question("n161313", "yes", "verify"),
        "07333405": gqa_question("2370799", "left", "choose"),
    }
    path = write_json(tmp_path / "val_balanced_questions.json", content)
    report = convert("gqa", tmp_path, path)
    first, second = samples_of(tmp_path / "out")
    assert (first["image_id"], first["split"]) == ("2370799", "val")
    assert first["questions"][0] == {
        "question": "What is on the table?",
        "answers": ["pizza"],
        "question_id": "02930152",
        "question_type": "query",
        "answer_type": "open",
        "semantic_type": "rel",
        "detailed_type": "relS",
    }
    assert [item["answer_type"] for item in first["questions"]] == ["open", "binary"]
    assert second["questions"][0]["answers"] == ["yes"]
    assert "published are 132,062 questions and 10,234 pictures" in report.published


def test_gqa_test_questions_have_no_answer(tmp_path):
    draw(tmp_path / "images" / "1.jpg", 1)
    path = write_json(tmp_path / "test_balanced_questions.json", {"7": gqa_question("1", None)})
    with pytest.raises(UserError, match="1 questions without an answer, by question_id: 7"):
        convert("gqa", tmp_path, path)
    assert convert("gqa", tmp_path, path, allow_unanswered=True).unanswered == 1


def test_vizwiz_keeps_what_says_whether_it_can_be_answered(tmp_path):
    name = "VizWiz_train_00000000.jpg"
    draw(tmp_path / "images" / name, 1)
    answers = [{"answer": "basil", "answer_confidence": "yes"}] * 9
    answers.append({"answer": "unanswerable", "answer_confidence": "no"})
    entry = {
        "image": name,
        "question": "What's the name of this product?",
        "answers": answers,
        "answer_type": "other",
        "answerable": 1,
    }
    convert("vizwiz", tmp_path, write_json(tmp_path / "train.json", [entry]))
    (sample,) = samples_of(tmp_path / "out")
    assert sample["image_id"] == name
    assert sample["questions"] == [
        {
            "question": "What's the name of this product?",
            "answers": ["basil"] * 9 + ["unanswerable"],
            "question_id": name,
            "question_type": "what",
            "answer_type": "other",
            "answerable": 1,
        }
    ]


def test_easy_vqa_types_are_the_questions_form(tmp_path):
    asked = [
        ("what is the blue shape?", "rectangle", "shape", "other"),
        ("what color is the shape?", "blue", "colour", "other"),
        ("is there a red shape?", "no", "yes/no", "yes/no"),
        ("does the image not contain a circle?", "yes", "yes/no, negated", "yes/no"),
        ("is no circle present?", "yes", "yes/no, negated", "yes/no"),
    ]
    draw(tmp_path / "images" / "0.png", 1)
    draw(tmp_path / "images" / "3.png", 2)
    entries = [[text, answer, 3 * (n % 2)] for n, (text, answer, *_) in enumerate(asked)]
    convert("easy_vqa", tmp_path, write_json(tmp_path / "questions.json", entries), split="train")
    samples = samples_of(tmp_path / "out")
    assert [sample["image_id"] for sample in samples] == [0, 3]
    found = {item["question_id"]: item for sample in samples for item in sample["questions"]}
    for number, (text, answer, question_type, answer_type) in enumerate(asked):
        assert found[number] == {
            "question": text,
            "answers": [answer],
            "question_id": number,
            "question_type": question_type,
            "answer_type": answer_type,
        }


def test_json_lines_take_pairs_weights_and_labels(tmp_path):
    for number, name in enumerate(("a.png", "b.png")):
        draw(tmp_path / "images" / name, number)
    records = [
        {"image": "a.png", "question": "What is it?", "answer": "a cat", "label": "cat"},
        {"image": ["a.png", "b.png"], "question": "Alike?", "answers": ["no"], "group": "g"},
        {"image": "a.png", "question": "How many are there?", "answers": {"2": 1, "3": 0.3}},
        {
            "image": "b.png",
            "question": "x",
            "answers": ["y"],
            "question_id": "mine",
            "question_type": "odd",
            "image_id": 7,
        },
    ]
    convert("jsonl", tmp_path, write_lines(tmp_path / "q.jsonl", records))
    alone, pair, other = samples_of(tmp_path / "out")
    assert alone["label"] == "cat"
    assert [item["question_id"] for item in alone["questions"]] == [1, 3]
    assert alone["questions"][1]["answers"] == {"2": 1, "3": 0.3}
    assert alone["questions"][1]["question_type"] == "how many"
    assert list(pair["members"]) == ["0.png", "1.png"]
    assert pair["questions"][0]["group"] == "g"
    assert other["image_id"] == 7
    assert other["questions"][0]["question_id"] == "mine"
    assert other["questions"][0]["question_type"] == "odd"


def test_missing_pictures_are_counted_and_named_and_strict_stops(tmp_path):
    draw(tmp_path / "images" / "here.png", 1)
    names = ["here.png", *(f"gone{n}.png" for n in range(7))]
    records = [{"image": name, "question": "what?", "answer": "x"} for name in names * 2]
    path = write_lines(tmp_path / "q.jsonl", records)
    report = convert("jsonl", tmp_path, path)
    (line,) = [line for line in report.lines() if "missing" in line]
    named = "gone0.png, gone1.png, gone2.png, gone3.png, gone4.png, and 2 more"
    assert line == f"7 pictures missing: {named} (with 14 questions): left out"
    assert report.written.questions == 2
    with pytest.raises(UserError, match="7 pictures missing: gone0.png"):
        convert("jsonl", tmp_path, path, "strict", writing=STRICT)
    assert names_in(tmp_path) == ["images", "out", "q.jsonl"]


BAD_LINES = [
    ([{"image": "a.png", "question": "?", "answer": 3}], r"q.jsonl:1: the answers are \[3\]"),
    ([{"image": "a.png", "answer": "x"}], r"q.jsonl:1: an entry has no `question`"),
    ([{"image": 5, "question": "?", "answer": "x"}], "`image` is 5"),
    ([{"image": [], "question": "?", "answer": "x"}], r"`image` is \[\]"),
    ([{"image": "a.png", "question": "?"}], "1 questions without an answer.*: 1"),
    (
        [{"image": name, "question": "?", "answer": "x", "image_id": 1} for name in ("a", "b")],
        "two pictures under one id, 1: a, b",
    ),
    (
        [{"image": "a.png", "question": "?", "answer": "x", "question_id": 4}] * 2,
        "1 question_ids come more than once: 4",
    ),
    (
        [{"image": "a.png", "question": "?", "answer": "x", "label": n} for n in ("u", "v")],
        "two labels, 'u' and 'v'",
    ),
    ([], "no question"),
]


@pytest.mark.parametrize(("records", "message"), BAD_LINES)
def test_bad_records_are_named_and_nothing_is_written(tmp_path, records, message):
    draw(tmp_path / "images" / "a.png", 1)
    with pytest.raises(UserError, match=message):
        convert("jsonl", tmp_path, write_lines(tmp_path / "q.jsonl", records))
    assert names_in(tmp_path) == ["images", "q.jsonl"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "jsonl",
            '{"image": "a", "question": "?", "answer": "x"}\n{"image"',
            "questions.json:2: not JSON",
        ),
        ("vizwiz", '[\n{"image": 1,}\n]', "questions.json:2: not JSON"),
        ("gqa", "[]", "not an object of questions"),
        ("vqav2", '{"annotations": []}', "no `questions`"),
        ("easy_vqa", '[["what?", "x"]]', "entry 0 is"),
        ("nlvr", '{"sentence": "x", "identifier": "1-0", "label": "maybe"}', "label is 'maybe'"),
        ("nlvr2", '{"sentence": "x", "identifier": "1-0"}', "not SPLIT-SET-PAIR-SENTENCE"),
        ("vizwiz", '[{"image": "a.png", "answers": []}]', "no `question`"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, content, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "questions.json").write_text(content)
    with pytest.raises(UserError, match=message):
        convert(name, tmp_path, tmp_path / "questions.json")
    assert names_in(tmp_path) == ["images", "questions.json"]


def test_the_command_says_what_was_written_and_where(tmp_path, capsys):
    questions, annotations = vqa_files(tmp_path)
    arguments = ["--questions", questions, "--annotations", annotations, "--out", tmp_path / "out"]
    assert main(["convert", "vqav2", *map(str, arguments), "--shard-size", "1"]) == 0
    shown = capsys.readouterr().out
    assert "2 samples, 3 questions, 2 shards" in shown
    assert f"written to {tmp_path / 'out'}" in shown
    assert len(list((tmp_path / "out").glob("*.tar.idx"))) == 2
    assert main(["convert", "vqav2", *map(str, arguments)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["convert", "vqav2", *map(str, arguments), "--overwrite"]) == 0


def test_without_a_folder_of_pictures_the_option_is_named(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", [])
    with pytest.raises(UserError, match="--images"):
        convert("jsonl", tmp_path, path, images=None)


@pytest.mark.parametrize("name", [*QUESTION_FORMATS, "coco", "flickr30k", "flickr8k", "csv"])
def test_every_format_explains_its_files(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", name, "--help"])
    assert stopped.value.code == 0
    assert "--images " in capsys.readouterr().out


def test_a_questions_opening_is_its_longest_known_one():
    assert question_opening("How many dogs?") == "how many"
    assert question_opening("What color is it?") == "what color"
    assert question_opening("what's that") == "what"
    assert question_opening("Isolated?") == "other"
    assert question_opening("") == "other"
