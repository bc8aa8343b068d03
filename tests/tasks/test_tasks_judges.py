"""Judges: what they find is what the model says when it is asked; their score has a gradient."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.errors import UserError
from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.factory import create_model
from vlpretrain.models.inputs import FastReader
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.explain import WordMaps, word_maps
from vlpretrain.tasks.judges import answer_judge

QUESTION = "is the square red"
ANSWERS = ("red", "blue square", "yes")
START, END = 2, 3  # [CLS] and [SEP] of the tokenizer that is trained here
SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", 32, depth=1, width=48, heads=3, patch=8),
    TextSpec(vocab_size=60, max_tokens=16, depth=1, width=32, heads=2),
    FusionSpec("cross", depth=3, width=32, heads=2),
    embed_dim=16,
)


def answering_model(kind: str, num_pictures: int) -> VLModel:
    torch.manual_seed(0)
    model = create_model(SPEC).eval()
    tokeniser = train_wordpiece(["is the red square blue", *ANSWERS], SPEC.text.vocab_size)
    model.reader = FastReader(tokeniser.tokenizer, SPEC.text.max_tokens)
    ids, valid = model.reader.read(ANSWERS)
    spec = AnswererSpec(
        kind=kind,
        num_pictures=num_pictures,
        answers=ANSWERS,
        dropout=0.5,
        heads=2,
        max_answer_tokens=12,
        start_id=START,
        end_id=END,
        answer_tokens=tuple(
            tuple(row[real].tolist()) for row, real in zip(ids, valid, strict=True)
        ),
    )
    model.answerer = Answerer(spec, SPEC.fusion.width, SPEC.text.vocab_size).eval()
    for part in (model, model.answerer):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return model


def explained(model: VLModel, pixels_BCHW: Tensor, answer: str | None = None) -> WordMaps:
    judge = answer_judge(model.answerer, model.reader, answer)
    return word_maps(model, pixels_BCHW, QUESTION, judge)


@pytest.fixture(params=[1, 2])
def num_pictures(request) -> int:
    return request.param


@pytest.fixture(params=["classify", "decode"])
def model(request, num_pictures) -> VLModel:
    return answering_model(request.param, num_pictures)


@pytest.fixture
def pixels_BCHW(num_pictures) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (num_pictures, 3, 32, 32), dtype=torch.uint8)


def test_the_answer_is_the_one_that_the_model_gives(model, pixels_BCHW):
    """Whatever mode the model is in."""
    ((said,),) = model.answer([list(pixels_BCHW)], QUESTION)
    model.train()
    maps = explained(model, pixels_BCHW)
    assert model.answerer.training
    assert maps.answer == said.answer
    assert maps.probability == pytest.approx(said.score, rel=1e-4)
    assert maps.map_BLhw.shape == (len(pixels_BCHW), 4, 4, 4)
    assert maps.map_BLhw.flatten(1).any(dim=1).all()
    assert all(parameter.grad is None for parameter in model.answerer.parameters())


@pytest.mark.parametrize("answer", ANSWERS)
def test_any_answer_can_be_judged(model, pixels_BCHW, answer):
    (said,) = model.answer([list(pixels_BCHW)], QUESTION, top=3, among=ANSWERS)
    maps = explained(model, pixels_BCHW, answer)
    assert maps.answer == answer
    assert maps.probability == pytest.approx(dict(said)[answer], rel=1e-4)


def test_each_answer_has_its_own_maps(model, pixels_BCHW):
    red, blue = (explained(model, pixels_BCHW, answer).map_BLhw for answer in ANSWERS[:2])
    assert not torch.allclose(red, blue, rtol=1e-2)


def test_answers_that_a_classifier_lacks_are_refused():
    model = answering_model("classify", 1)
    pixels_1CHW = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(UserError, match="'green' is none of the 3 answers"):
        explained(model, pixels_1CHW, "green")
    with pytest.raises(UserError, match="2 pictures for a question"):
        explained(model, pixels_1CHW.repeat(2, 1, 1, 1))


def test_a_fusion_of_one_layer_explains_open_answers_alone(pixels_BCHW):
    """A decoder reads what every word saw; a classifier what the first token saw."""
    single = replace(SPEC, fusion=replace(SPEC.fusion, depth=1))
    for kind in ("decode", "classify"):
        model = answering_model(kind, len(pixels_BCHW))
        model.fusion = create_model(single).fusion.eval()
        if kind == "decode":
            assert explained(model, pixels_BCHW).map_BLhw.any()
        else:
            with pytest.raises(UserError, match="two or more layers"):
                explained(model, pixels_BCHW)
