"""Evaluation by head, neighbours and names: figures by hand, and what is left in the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_classification import SPEC, random_pixels, tiny_task
from torch import Tensor, nn

from vlpretrain.data.questions import pad_ids
from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.errors import UserError
from vlpretrain.models.classifier import Classifier, ClassifierSpec
from vlpretrain.models.vision import VisionStates
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.classification import ClassificationTask
from vlpretrain.tasks.classification_evaluator import (
    ClassificationEvaluator,
    constant_accuracy,
)
from vlpretrain.tasks.classification_scores import (
    NameScorer,
    NeighbourScorer,
    Scorer,
    score_by_head,
)
from vlpretrain.tasks.classification_set import LabelledSet

WIDTH = 8


class OneHotTower(nn.Module):
    """A picture's feature is one-hot of its first value."""

    width = WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.mask_token = None

    def forward(self, pixels_BCHW: Tensor) -> VisionStates:
        pooled_BD = F.one_hot(pixels_BCHW[:, 0, 0, 0].long(), WIDTH) * self.scale
        return VisionStates(pooled_BD.unsqueeze(1), pooled_BD, 0)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vision = OneHotTower()


def one_hot_task(classes: int) -> ClassificationTask:
    """Whose head gives class c the logit 3 where the picture's value is c."""
    names = tuple(f"class {number}" for number in range(classes))
    task = ClassificationTask(Holder(), Classifier(ClassifierSpec(names), WIDTH))  # type: ignore[arg-type]
    with torch.no_grad():
        task.classifier.head.weight.copy_(3 * torch.eye(classes, WIDTH))
    return task


def pictures_of(values: list[int], labels: list[int], broken: tuple[int, ...] = ()) -> LabelledSet:
    pixels_NCHW = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

    def load(rows: list[int]) -> tuple[Tensor, Tensor]:
        return pixels_NCHW[list(rows)], torch.tensor([row not in broken for row in rows])

    return LabelledSet(load, torch.tensor(labels), left_out=2)


def evaluate(
    task: ClassificationTask,
    pictures: LabelledSet,
    folder: Path,
    scorer: Scorer = score_by_head,
    batch: int = 2,
    mode: str = "finetune",
) -> tuple[dict[str, float], dict]:
    names = task.classifier.spec.classes
    evaluator = ClassificationEvaluator(
        pictures, names, scorer, mode, batch, overlap=lambda: {"checked": False}
    )
    figures = evaluator(task, folder)
    return figures, json.loads((folder / "classification.json").read_text())


@pytest.mark.parametrize("batch", [1, 2, 5, 64])
def test_figures_are_those_counted_by_hand(tmp_path: Path, batch: int) -> None:
    # Wrong: the third, and the fifth can't be read.
    pictures = pictures_of([0, 1, 2, 5, 1], [0, 1, 1, 5, 1], broken=(4,))
    figures, record = evaluate(one_hot_task(7), pictures, tmp_path, batch=batch)
    assert figures == {
        "val/top1": 0.75,
        # Five of the seven scores are equal, and ties stand against the model.
        "val/top5": 0.75,
        "val/mean_of_classes": pytest.approx((1 + 1 / 2 + 1) / 3),
        "val/chance_top1": 0.5,
        "val/chance_top5": 1.0,
    }
    assert record["num_images"] == 4
    assert record["num_left_out"] == 3
    assert record["num_classes"] == 7
    assert record["mode"] == "finetune"
    assert record["overlap"] == {"checked": False}
    assert record["interval"][0] <= record["top1"] <= record["interval"][1]
    assert {row["name"]: (row["n"], row["accuracy"]) for row in record["per_class"]} == {
        "class 0": (1, 1.0),
        "class 1": (2, 0.5),
        "class 5": (1, 1.0),
    }


def test_examples_show_right_and_wrong_with_their_pictures(tmp_path: Path) -> None:
    pictures = pictures_of([0, 1, 2, 1], [0, 1, 1, 2])
    _, record = evaluate(one_hot_task(3), pictures, tmp_path)
    assert "top5" not in record  # of three classes it would always be 1
    shown = [(example["label"], example["top"][0]["name"]) for example in record["examples"]]
    assert shown == [
        ("class 0", "class 0"),
        ("class 1", "class 1"),
        ("class 1", "class 2"),
        ("class 2", "class 1"),
    ]
    best = record["examples"][2]["top"][0]["score"]
    assert best == pytest.approx(torch.tensor([0.0, 0.0, 3.0]).softmax(0)[2].item())
    picture = Image.open(tmp_path / record["examples"][2]["image"])
    assert picture.getpixel((1, 1)) == (2, 2, 2)


def test_the_task_is_left_in_its_mode_and_nothing_is_left_out(tmp_path: Path) -> None:
    task = tiny_task()
    task.train()
    pictures = LabelledSet(
        lambda rows: (random_pixels(len(rows)), torch.ones(len(rows), dtype=torch.bool)),
        torch.tensor([0, 1, 2]),
    )
    evaluate(task, pictures, tmp_path)
    assert task.training
    assert task.model.vision.training
    assert all(parameter.grad is None for parameter in task.parameters())


@pytest.mark.parametrize(
    ("labels", "broken", "expected"),
    [([], (), "no held-out picture"), ([0, 1], (0, 1), "none of the held-out pictures")],
)
def test_nothing_to_judge_by_is_said(
    tmp_path: Path, labels: list[int], broken: tuple[int, ...], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        evaluate(one_hot_task(3), pictures_of(labels, labels, broken), tmp_path)
    assert not list(tmp_path.iterdir())


def test_neighbours_of_one_hot_features_vote_for_their_class(tmp_path: Path) -> None:
    # Value v stands for class v % 3; the broken picture would vote for a wrong one.
    values = [0, 1, 2, 3, 4, 5] * 2 + [4]
    labels = [value % 3 for value in values[:-1]] + [0]
    training = pictures_of(values, labels, broken=(12,))
    scorer = NeighbourScorer(training, 3, neighbours=2, temperature=0.07, batch=4)
    figures, record = evaluate(
        one_hot_task(3), pictures_of([5, 4, 3, 0], [2, 1, 0, 1]), tmp_path, scorer, mode="knn"
    )
    assert figures["val/top1"] == 0.75
    assert record["mode"] == "knn"
    assert record["examples"][0]["top"][0] == {"name": "class 2", "score": 1.0}


def test_votes_weigh_by_their_similarity(tmp_path: Path) -> None:
    # One neighbour is the picture's own value, two are at right angles to it.
    training = pictures_of([0, 1, 2], [0, 1, 1])
    task = one_hot_task(2)
    task.eval()
    score = NeighbourScorer(training, 2, neighbours=3, temperature=0.5, batch=2)(task)
    near = torch.tensor([1.0, 0.0, 0.0]).div(0.5).softmax(0)
    expected = torch.stack([near[0], near[1] + near[2]])
    torch.testing.assert_close(score(training.load([0])[0])[0], expected)


def test_too_few_training_pictures_are_said(tmp_path: Path) -> None:
    scorer = NeighbourScorer(pictures_of([0, 1], [0, 1], (1,)), 2, 2, 0.07, batch=2)
    with pytest.raises(UserError, match="2 neighbours of 1 training pictures"):
        scorer(one_hot_task(2))


@pytest.fixture(scope="module")
def named_model(tmp_path_factory: pytest.TempPathFactory) -> VLModel:
    folder = tmp_path_factory.mktemp("named")
    tokeniser = train_wordpiece(["a photo of a red ant", "one blue bee, two grey cats"] * 3, 40)
    tokeniser.save(folder / "tokenizer")
    torch.manual_seed(0)
    task = tiny_task()
    task.model.save_pretrained(folder / "export", folder / "tokenizer")
    return VLModel.from_pretrained(folder / "export")


def test_names_are_compared_as_encode_text_and_encode_image_do(named_model: VLModel) -> None:
    names, templates = ("red ant", "blue bee", "cat"), ("a photo of a {}", "{}")
    texts = [template.replace("{}", name) for name in names for template in templates]
    text_PT, valid_PT = pad_ids(_ids(named_model, texts), SPEC.text.pad_id)
    classifier = Classifier(ClassifierSpec(names), named_model.vision.width)
    task = ClassificationTask(named_model, classifier).eval()
    score = NameScorer(text_PT, valid_PT, num_classes=3, batch=4)(task)
    pixels_BCHW = random_pixels(5)
    with torch.no_grad():
        found_BC = score(pixels_BCHW)

    by_hand = []
    for name in names:
        embedding = named_model.encode_text(
            [template.replace("{}", name) for template in templates]
        )
        by_hand.append(F.normalize(embedding.mean(0), dim=0))
    expected_BC = named_model.encode_image(pixels_BCHW) @ torch.stack(by_hand).T
    torch.testing.assert_close(found_BC, expected_BC, rtol=1e-4, atol=1e-5)
    assert found_BC.std() > 1e-3


def _ids(model: VLModel, texts: list[str]) -> list[list[int]]:
    assert model.reader is not None
    text_BT, valid_BT = model.reader.read(texts)
    return [ids[valid].tolist() for ids, valid in zip(text_BT, valid_BT, strict=True)]


def test_a_constant_guess_is_as_good_as_the_most_frequent_classes() -> None:
    num_C = torch.tensor([5, 1, 3, 1])
    assert constant_accuracy(num_C, 1) == 0.5
    assert constant_accuracy(num_C, 2) == 0.8
