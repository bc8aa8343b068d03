"""`VLModel.answer`: pictures and words in, answers out; and how a model carries its answerer."""

import open_clip
import pytest
import torch
from tiny_answer_model import (
    ANSWERS,
    QUESTIONS,
    make_answerer,
    model_spec,
    save_tokenizer,
)
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.models.factory import create_model
from vlpretrain.models.inputs import ClipReader
from vlpretrain.models.vlmodel import VLModel


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return folder


def load(folder, tokenizer_folder, kind: str | None, num_pictures: int = 1) -> VLModel:
    torch.manual_seed(0)
    model = create_model(model_spec())
    model.answerer = None if kind is None else make_answerer(kind, num_pictures)
    model.save_pretrained(folder, tokenizer_folder)
    return VLModel.from_pretrained(folder)


@pytest.fixture
def pixels() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)


@pytest.fixture(params=["classify", "decode"])
def model(request, tmp_path, tokenizer_folder) -> VLModel:
    return load(tmp_path, tokenizer_folder, request.param)


def assert_same(first, second):
    assert [[answer for answer, _ in row] for row in first] == [
        [answer for answer, _ in row] for row in second
    ]
    for ours, theirs in zip(first, second, strict=True):
        assert [s for _, s in ours] == pytest.approx([s for _, s in theirs], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("among", [None, ANSWERS])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_answers_do_not_depend_on_the_batch(model, pixels, among, batch_size):
    answers = model.answer(pixels, QUESTIONS, top=2, batch_size=batch_size, among=among)
    assert [len(row) for row in answers] == [2] * 4
    for question, text in enumerate(QUESTIONS):
        assert_same(
            answers[question : question + 1],
            model.answer(pixels[question], text, top=2, among=among),
        )


def test_scores_are_probabilities_best_first(model, pixels):
    for row in model.answer(pixels, QUESTIONS, top=3):
        scores = [scored.score for scored in row]
        assert scores == sorted(scores, reverse=True)
        assert all(0 < score <= 1 for score in scores)
        assert len({scored.answer for scored in row}) == len(row)


def test_without_a_list_a_decoder_writes_and_with_one_it_ranks(tmp_path, tokenizer_folder, pixels):
    model = load(tmp_path, tokenizer_folder, "decode")
    written = model.answer(pixels[0], QUESTIONS[0], top=3)[0]
    assert "[" not in "".join(answer for answer, _ in written)
    ranked = model.answer(pixels[0], QUESTIONS[0], top=9, among=ANSWERS)[0]
    assert {answer for answer, _ in ranked} == set(ANSWERS)
    # What it wrote has the same likelihood when it is ranked.
    again = model.answer(pixels[0], QUESTIONS[0], among=[written[0].answer])[0]
    assert again[0].score == pytest.approx(written[0].score, rel=1e-4)


def test_a_classifier_s_choice_can_be_narrowed(tmp_path, tokenizer_folder, pixels):
    model = load(tmp_path, tokenizer_folder, "classify")
    everything = dict(model.answer(pixels[0], QUESTIONS[0], top=3)[0])
    for name in ANSWERS:
        (only,) = model.answer(pixels[0], QUESTIONS[0], among=[name])[0]
        assert only == (name, pytest.approx(everything[name]))


def test_a_picture_beside_many_questions_is_encoded_once(model, pixels):
    counted: list[int] = []
    model.vision.register_forward_hook(lambda module, inputs, out: counted.append(len(inputs[0])))
    one = model.answer(pixels[0], QUESTIONS, batch_size=2)
    assert counted == [1]
    assert_same(one, model.answer([pixels[0]] * 4, QUESTIONS, batch_size=2))
    assert counted == [1, 1]
    assert_same(one, model.answer(pixels[:1].expand(4, -1, -1, -1), QUESTIONS))


def test_two_pictures_a_question(tmp_path, tokenizer_folder, pixels):
    model = load(tmp_path, tokenizer_folder, "classify", num_pictures=2)
    pairs = [[pixels[0], pixels[1]], (pixels[2], pixels[0]), pixels[1:3], [pixels[0], pixels[1]]]
    answers = model.answer(pairs, QUESTIONS, top=3)
    assert_same(answers[:1], answers[3:])
    assert_same(answers[:1], model.answer([pixels[0], pixels[1]], QUESTIONS[0], top=3))
    assert_same(answers[:1], model.answer([pairs[0]], QUESTIONS[:2], top=3)[:1])
    turned = model.answer([pixels[1], pixels[0]], QUESTIONS[0], top=3)
    assert dict(turned[0]) != pytest.approx(dict(answers[0]), rel=1e-4)


def test_nothing_asked_nothing_answered(model):
    assert model.answer([], []) == []


def test_the_weights_of_a_model_do_not_hold_its_answerer(model, tmp_path):
    plain = create_model(model_spec())
    assert list(model.state_dict()) == list(plain.state_dict())
    assert len(list(model.modules())) == len(list(plain.modules()))


def test_the_answerer_goes_where_the_model_goes(model):
    model.to(torch.float64)
    assert {p.dtype for p in model.answerer.parameters()} == {torch.float64}
    model.train()
    assert model.answerer.training
    model.eval()
    assert not model.answerer.training


def test_use_leaves_the_training_mode_as_it_was(model, pixels):
    model.train()
    model.answer(pixels[0], QUESTIONS[0])
    assert model.training
    assert model.answerer.training


def test_saved_again_a_model_keeps_its_answerer(model, pixels, tokenizer_folder, tmp_path):
    model.save_pretrained(tmp_path / "again", tokenizer_folder)
    again = VLModel.from_pretrained(tmp_path / "again")
    assert_same(again.answer(pixels, QUESTIONS), model.answer(pixels, QUESTIONS))


def test_a_model_without_one_leaves_no_other_behind(model, tokenizer_folder, tmp_path):
    assert (tmp_path / "answerer.json").is_file()
    # The tokenizer's files may come from a folder that holds an answerer.
    other = load(tmp_path / "other", tmp_path, None)
    assert other.answerer is None
    assert load(tmp_path, tokenizer_folder, None).answerer is None
    assert not list(tmp_path.glob("answerer.*"))


def test_open_clip_s_tokenizer_writes_what_it_read():
    reader = ClipReader(open_clip.get_tokenizer("ViT-B-32"))
    text_BT, _ = reader.read(["two red dogs", "dogs"])
    assert [reader.write(ids) for ids in text_BT[:1].tolist()] == ["two red dogs"]


def test_misuse_is_said(model, pixels, tokenizer_folder, tmp_path):
    with pytest.raises(UserError, match="2 questions"):
        model.answer(pixels[:3], QUESTIONS[:2])
    with pytest.raises(UserError, match="2 pictures for a question"):
        model.answer([[pixels[0], pixels[1]]], QUESTIONS[:1])
    with pytest.raises(UserError, match="0 best answers"):
        model.answer(pixels[0], QUESTIONS, top=0)
    with pytest.raises(UserError, match="no answer to choose from"):
        model.answer(pixels[0], QUESTIONS, among=[])
    wrong = ["red very very very blue"]
    expected = "none of the 3" if model.answerer.decoder is None else "7 tokens"
    with pytest.raises(UserError, match=expected):
        model.answer(pixels[0], QUESTIONS, among=wrong)
    with pytest.raises(UserError, match="fine-tune it for VQA first"):
        load(tmp_path / "plain", tokenizer_folder, None).answer(pixels[0], QUESTIONS)
    model.reader = None
    with pytest.raises(UserError, match="no tokenizer"):
        model.answer(pixels[0], QUESTIONS)
