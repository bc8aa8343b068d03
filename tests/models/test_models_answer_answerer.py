"""The answerer: states of questions with their pictures, scores, and its files."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_answer_model import (
    ANSWERS,
    KINDS,
    WIDTH,
    WORDS,
    answerer_spec,
    make_answerer,
    model_spec,
)
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.models import fusion as fusion_module
from vlpretrain.models import layout as layout_module
from vlpretrain.models.answer_decoder import answer_loss, answer_texts
from vlpretrain.models.answerer import Answerer, QuestionStates
from vlpretrain.models.answerer_files import load_answerer, save_answerer
from vlpretrain.models.factory import create_model
from vlpretrain.models.layout import padded_layout
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.padding import pad_ids

IMAGE_ROW = {1: [[2], [0], [2]], 2: [[2, 0], [0, 1], [1, 1]]}
CASES = [(kind, num_pictures) for kind in ("classify", "decode") for num_pictures in (1, 2)]


@pytest.fixture(params=KINDS)
def model(request) -> VLModel:
    torch.manual_seed(0)
    return create_model(model_spec(request.param)).eval()


@pytest.fixture
def towers() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of three pictures and of three texts."""
    torch.manual_seed(1)
    valid_RT = torch.arange(5) < torch.tensor([[5], [2], [3]])
    return torch.randn(3, 6, 48), torch.randn(3, 5, WIDTH), valid_RT


def states_of(answerer: Answerer, model: VLModel, towers, image_row=None, **others):
    rows = IMAGE_ROW[answerer.spec.num_pictures] if image_row is None else image_row
    return answerer.states(model, *towers, torch.tensor(rows), **others)


@pytest.mark.parametrize(("kind", "num_pictures"), CASES)
def test_scores_of_a_question_do_not_depend_on_the_others(model, towers, kind, num_pictures):
    answerer = make_answerer(kind, num_pictures)
    image_IND, text_RTD, valid_RT = towers
    together = answerer.answer_scores(states_of(answerer, model, towers))
    assert together.shape == (3, len(ANSWERS))
    for question, image_row in enumerate(IMAGE_ROW[num_pictures]):
        length = int(valid_RT[question].sum())
        own = image_IND[image_row], text_RTD[question : question + 1, :length]
        valid_1T = torch.ones(1, length, dtype=torch.bool)
        states = states_of(answerer, model, (*own, valid_1T), [list(range(num_pictures))])
        alone = answerer.answer_scores(states)
        torch.testing.assert_close(together[question : question + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["classify", "decode"])
def test_the_order_of_two_pictures_matters(model, towers, kind):
    answerer = make_answerer(kind, 2)
    score_QA = answerer.answer_scores(states_of(answerer, model, towers))
    turned = [list(reversed(row)) for row in IMAGE_ROW[2]]
    other_QA = answerer.answer_scores(states_of(answerer, model, towers, turned))
    same_Q = torch.tensor([row[0] == row[1] for row in IMAGE_ROW[2]])
    torch.testing.assert_close(score_QA[same_Q], other_QA[same_Q])
    assert ((score_QA - other_QA).abs().amax(dim=1) > 1e-4).equal(~same_Q)


@pytest.mark.parametrize(("kind", "num_pictures"), CASES)
def test_what_a_gpu_reads_gives_the_same_scores(model, towers, kind, num_pictures, monkeypatch):
    """There every position is read, padding too."""
    answerer = make_answerer(kind, num_pictures)
    ours = answerer.answer_scores(states_of(answerer, model, towers))
    monkeypatch.setattr(layout_module, "packs_rows", lambda device: False)
    monkeypatch.setattr(fusion_module, "lay_out", lambda v, pairs, _: padded_layout(v, pairs))
    states = states_of(answerer, model, towers)
    torch.testing.assert_close(answerer.answer_scores(states), ours, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["classify", "decode"])
def test_several_questions_may_be_one_text(model, towers, kind):
    answerer = make_answerer(kind)
    image_IND, text_RTD, valid_RT = towers
    text_row_Q = torch.tensor([1, 1, 0])
    shared = states_of(answerer, model, towers, text_row_Q=text_row_Q)
    copied = states_of(answerer, model, (image_IND, text_RTD[text_row_Q], valid_RT[text_row_Q]))
    torch.testing.assert_close(answerer.answer_scores(shared), answerer.answer_scores(copied))


@pytest.mark.parametrize(("kind", "num_pictures"), CASES)
def test_there_is_one_call_of_the_fusion(model, towers, kind, num_pictures):
    calls: list[int] = []
    model.fusion.register_forward_hook(lambda module, inputs, out: calls.append(len(out)))
    states_of(make_answerer(kind, num_pictures), model, towers)
    num_read = {"classify": 3, "decode": 5 + 2 + 3}[kind] * num_pictures
    assert calls == [num_read]


@pytest.mark.parametrize(("kind", "num_pictures"), CASES)
def test_every_parameter_and_the_towers_get_a_gradient(towers, kind, num_pictures):
    model, answerer = create_model(model_spec()), make_answerer(kind, num_pictures)
    for rows in towers[:2]:
        rows.requires_grad_()
    states = states_of(answerer, model, towers)
    if kind == "classify":
        answerer.logits(states).sin().sum().backward()
    else:
        text_SL, valid_SL = pad_ids(answerer.spec.answer_tokens, 0)
        answers = answer_texts(text_SL, valid_SL, torch.tensor([0, 1, 2]))
        answer_loss(answerer.logits(states, answers), answers, torch.ones(3)).backward()
    missing = [name for name, p in answerer.named_parameters() if p.grad is None]
    assert missing == []
    assert [name for name, p in model.fusion.named_parameters() if p.grad is None] == []
    assert all(rows.grad.any() for rows in towers[:2])


def test_a_classifier_judges_answers_one_by_one_or_against_each_other(towers):
    model, answerer = create_model(model_spec()).eval(), make_answerer("classify")
    states = states_of(answerer, model, towers)
    score_QA, logits_QA = answerer.answer_scores(states), answerer.logits(states)
    torch.testing.assert_close(score_QA.exp(), logits_QA.sigmoid())
    answerer.spec = replace(answerer.spec, exclusive=True)
    torch.testing.assert_close(answerer.answer_scores(states).exp(), logits_QA.softmax(dim=1))


def test_a_decoder_s_scores_are_likelihoods_and_leave_some_out(towers):
    model, answerer = create_model(model_spec()).eval(), make_answerer("decode")
    states = states_of(answerer, model, towers)
    all_QA, one_QA = (answerer.answer_scores(states, k_first=k) for k in (3, 1))
    assert (one_QA > -torch.inf).sum(dim=1).tolist() == [1, 1, 1]
    found = one_QA > -torch.inf
    torch.testing.assert_close(one_QA[found], all_QA[found])
    ranking = answerer.rank(states, answerer.list_text_AL, answerer.list_valid_AL)
    assert ranking.index_QK[:, 0].equal(all_QA.argmax(dim=1))


def test_a_decoder_writes(towers):
    model, answerer = create_model(model_spec()).eval(), make_answerer("decode")
    written = answerer.write(states_of(answerer, model, towers), num_beams=2)
    assert written.text_QKL.shape[:2] == (3, 2)


def test_a_classifier_writes_nothing():
    states = QuestionStates(torch.zeros(1, 1, WIDTH), torch.ones(1, 1) > 0)
    with pytest.raises(UserError, match="writes none"):
        make_answerer("classify").write(states)


@pytest.mark.parametrize(("kind", "num_pictures"), CASES)
def test_saved_and_loaded_it_is_the_same(kind, num_pictures, tmp_path):
    answerer = make_answerer(kind, num_pictures)
    save_answerer(answerer, tmp_path)
    again = load_answerer(tmp_path, WIDTH, len(WORDS))
    assert again.spec == answerer.spec
    assert not again.training
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, answerer.state_dict()[name], rtol=0, atol=0)
    assert {file.name for file in tmp_path.iterdir()} == {"answerer.json", "answerer.safetensors"}
    description = json.loads((tmp_path / "answerer.json").read_text())
    assert description["answerer"]["kind"] == kind


def test_other_weights_can_be_written_in_place_of_its_own(tmp_path):
    answerer = make_answerer("classify")
    ones = {name: torch.ones_like(tensor) for name, tensor in answerer.state_dict().items()}
    save_answerer(answerer, tmp_path, ones)
    assert load_answerer(tmp_path, WIDTH, len(WORDS)).classifier.outer.weight.eq(1).all()


def test_a_folder_without_one(tmp_path):
    assert load_answerer(tmp_path, WIDTH, len(WORDS)) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "holds a list"),
        ('{"classifier": {}}', "does not know"),
        ('{"answerer": {"answers": [], "answer_tokens": [], "knd": 1}}', "knd"),
    ],
)
def test_damaged_descriptions_are_refused(content, message, tmp_path):
    save_answerer(make_answerer("classify"), tmp_path)
    (tmp_path / "answerer.json").write_text(content)
    with pytest.raises(UserError, match=message) as refused:
        load_answerer(tmp_path, WIDTH, len(WORDS))
    assert "answerer.json" in refused.value.where


def test_damaged_and_foreign_weights_are_refused(tmp_path):
    save_answerer(make_answerer("classify"), tmp_path)
    with pytest.raises(UserError, match=r"classifier\.inner\.weight"):
        load_answerer(tmp_path, 2 * WIDTH, len(WORDS))
    (tmp_path / "answerer.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_answerer(tmp_path, WIDTH, len(WORDS))
    (tmp_path / "answerer.safetensors").unlink()
    with pytest.raises(UserError, match="no such file"):
        load_answerer(tmp_path, WIDTH, len(WORDS))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("classify", {"answers": ()}, "no answer"),
        ("classify", {"kind": "guess"}, "guess"),
        ("classify", {"num_pictures": 0}, "0 pictures"),
        ("decode", {"heads": 5}, "5 heads"),
        ("decode", {"depth": 0}, "0 layers"),
        ("decode", {"max_answer_tokens": 2}, "2 tokens"),
        ("decode", {"max_answer_tokens": 3}, "'very blue' has 4 tokens"),
        ("decode", {"answer_tokens": ()}, "tokens of 0"),
    ],
)
def test_parts_that_do_not_fit_are_refused(kind, change, message):
    with pytest.raises(UserError, match=message):
        Answerer(replace(answerer_spec(kind), **change), WIDTH, len(WORDS))
