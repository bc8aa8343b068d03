"""The classifier beside its model: saved, loaded, used from Python, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vlpretrain.errors import UserError
from vlpretrain.models.classifier import Classifier, ClassifierSpec
from vlpretrain.models.classifier_files import CLASSIFIER_FILES, load_classifier, save_classifier
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel

CLASSES = ("ant", "bee", "cat")
SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", 32, 16, depth=1, width=48, heads=3),
    TextSpec(vocab_size=40, max_tokens=8, depth=1, width=16, heads=2),
    FusionSpec(depth=1, width=16, heads=2),
    embed_dim=8,
)


def make(spec: ClassifierSpec | None = None) -> VLModel:
    torch.manual_seed(0)
    model = create_model(SPEC).eval()
    if spec is not None:
        model.classifier = Classifier(spec, model.vision.width).eval()
        torch.nn.init.normal_(model.classifier.head.weight)
    return model


PICTURES = torch.randint(
    0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


@pytest.mark.parametrize(
    "spec", [ClassifierSpec(CLASSES), ClassifierSpec(CLASSES, pool="patches", probe=True)]
)
def test_a_model_keeps_its_classifier(tmp_path: Path, spec: ClassifierSpec) -> None:
    model = make(spec)
    model.save_pretrained(tmp_path)
    again = VLModel.from_pretrained(tmp_path)
    assert again.classifier is not None
    assert again.classifier.spec == spec
    assert again.classify(PICTURES, top=2) == model.classify(PICTURES, top=2)
    # The weights of the model are the same with it and without.
    assert set(again.state_dict()) == set(make().state_dict())


def test_classes_come_with_probabilities_the_best_first() -> None:
    model = make(ClassifierSpec(CLASSES))
    rows = model.classify(PICTURES, top=9, batch_size=2)
    with torch.no_grad():
        expected_BC = model.classifier(model.vision(PICTURES)).softmax(1)
    assert len(rows) == 5
    for row, expected_C in zip(rows, expected_BC, strict=True):
        scores = [score for _, score in row]
        assert scores == sorted(scores, reverse=True)
        assert {name for name, _ in row} == set(CLASSES)
        for name, score in row:
            assert score == pytest.approx(float(expected_C[CLASSES.index(name)]), rel=1e-4)
    assert [len(row) for row in model.classify(PICTURES[0])] == [1]


def test_a_classifier_goes_where_its_model_goes() -> None:
    model = make(ClassifierSpec(CLASSES)).to(torch.float64)
    assert model.classifier.head.weight.dtype == torch.float64
    assert model.train().classifier.training
    assert not model.eval().classifier.training


def test_another_model_in_the_folder_leaves_no_classifier(tmp_path: Path) -> None:
    make(ClassifierSpec(CLASSES)).save_pretrained(tmp_path)
    make().save_pretrained(tmp_path)
    assert not list(tmp_path.glob("classifier*"))
    model = VLModel.from_pretrained(tmp_path)
    assert model.classifier is None
    with pytest.raises(UserError, match="knows no classes"):
        model.classify(PICTURES)


@pytest.mark.parametrize(
    ("classes", "expected"), [(("ant",), "nothing to tell apart"), (("a", "b", "a"), "twice: a")]
)
def test_classes_that_are_none_are_refused(classes: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Classifier(ClassifierSpec(classes), 8)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    assert CLASSIFIER_FILES.read(tmp_path) is None
    save_classifier(Classifier(ClassifierSpec(CLASSES), 8), tmp_path)
    with pytest.raises(UserError, match=r"classifier.safetensors that was saved"):
        load_classifier(tmp_path, 16)
    description = json.loads((tmp_path / "classifier.json").read_text())
    del description["classifier"]["classes"]
    (tmp_path / "classifier.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="does not know"):
        load_classifier(tmp_path, 8)
    (tmp_path / "classifier.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        load_classifier(tmp_path, 8)
