"""Questions as a training task: exact parts, no work twice, nothing that does not learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_vqa import ANSWERS, make_rows, micro_batches, tiny_recipe, tiny_vqa
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vlpretrain.data.questions import Answered, QuestionRow
from vlpretrain.models.answerer import QuestionStates
from vlpretrain.tasks.vqa import VqaTask, chosen_score, classification_loss, soft_targets
from vlpretrain.types import QuestionBatch

KINDS: list[Any] = [("classify", "bce"), ("classify", "cross_entropy"), ("decode", "bce")]


def learn(
    task: VqaTask, batches: list[QuestionBatch]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients as the loop takes them: means over micro-batches."""
    task.zero_grad(set_to_none=True)
    metrics: dict[str, float] = {"loss": 0.0}
    for batch in batches:
        output: Any = task(batch)
        (output.loss / len(batches)).backward()
        for name, value in {"loss": output.loss.detach(), **output.metrics}.items():
            metrics[name] = metrics.get(name, 0.0) + float(value) / len(batches)
    return metrics, {n: p.grad for n, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("kind", "loss"), KINDS)
@pytest.mark.parametrize("num_pictures", [1, 2])
def test_one_micro_batch_and_several_are_one_global_batch(
    kind: Any, loss: Any, num_pictures: int
) -> None:
    task, recipe = tiny_vqa(kind, loss, num_pictures), tiny_recipe(kind, num_pictures)
    rows = make_rows(8, num_pictures)
    whole, whole_gradients = learn(task, micro_batches(recipe, rows, 1))
    for parts in (2, 4):
        metrics, gradients = learn(task, micro_batches(recipe, rows, parts))
        assert metrics == pytest.approx(whole, rel=1e-5)
        assert gradients.keys() == whole_gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole_gradients[name], rtol=2e-4, atol=1e-6)


def test_the_loss_is_a_mean_over_questions() -> None:
    task, recipe = tiny_vqa(), tiny_recipe()
    (batch,) = micro_batches(recipe, make_rows(), 1)
    states = task(batch, evaluate=True)
    logits_QA = task.answerer.logits(states)
    target_QA = soft_targets(batch, len(ANSWERS))
    expected = F.binary_cross_entropy_with_logits(logits_QA, target_QA, reduction="none").sum(1)
    assert len(expected) == 20
    output: Any = task(batch)
    found, mean = float(output.loss.detach()), float(expected.detach().mean())
    assert found == pytest.approx(mean, rel=1e-5)
    accuracy = chosen_score(logits_QA, target_QA).mean()
    assert float(output.metrics["vqa/accuracy"]) == pytest.approx(float(accuracy), rel=1e-5)


def answered(*answers: Answered) -> QuestionRow:
    pixels = torch.zeros(3, 32, 32, dtype=torch.uint8)
    return QuestionRow("a/0", (pixels,), ("it",), (answers,))


def test_targets_are_the_scores_of_known_answers() -> None:
    batch = tiny_recipe().collate(
        [
            answered(Answered("green", 2, 0.3, 0.1), Answered("red", 0, 1.0, 0.9)),
            answered(Answered("blue", -1, 1.0, 1.0)),
            answered(),
        ]
    )
    expected = torch.tensor([[1.0, 0.0, 0.3], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(soft_targets(batch, 3), expected)


def test_cross_entropy_leaves_questions_without_a_known_answer_out() -> None:
    logits_QA = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    target_QA = torch.tensor([[0.3, 0.0, 0.9, 0.0], [0.0] * 4, [0.0, 0.6, 0.0, 0.0]])
    log_QA = logits_QA.log_softmax(1)
    expected = -(0.25 * log_QA[0, 0] + 0.75 * log_QA[0, 2] + log_QA[2, 1])
    found = classification_loss(logits_QA, target_QA, "cross_entropy")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fusion", ["cross", "merged", "concat"])
@pytest.mark.parametrize("kind", ["classify", "decode"])
def test_a_question_does_not_depend_on_the_rest_of_the_batch(kind: Any, fusion: str) -> None:
    task, recipe = tiny_vqa(kind, fusion=fusion).eval(), tiny_recipe(kind)
    rows = make_rows()
    together: QuestionStates = task(recipe.collate(rows), evaluate=True)
    score_QA = task.answerer.answer_scores(together)
    first = 0
    for row in rows:
        alone: QuestionStates = task(recipe.collate([row]), evaluate=True)
        found = task.answerer.answer_scores(alone)
        torch.testing.assert_close(
            found, score_QA[first : first + len(found)], rtol=1e-4, atol=1e-5
        )
        first += len(found)


def test_each_picture_and_each_text_is_encoded_once() -> None:
    task, recipe = tiny_vqa(), tiny_recipe()
    seen: list[tuple[str, int]] = []
    for name in ("vision", "text"):
        task.model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: seen.append((name, len(inputs[0])))
        )
    rows = make_rows()
    task(recipe.collate(rows))
    assert seen == [("vision", 8), ("text", len({t for row in rows for t in row.questions}))]


@pytest.mark.parametrize("fusion", ["cross", "merged", "concat"])
@pytest.mark.parametrize("kind", ["classify", "decode"])
def test_what_is_trained_is_what_questions_read(kind: Any, fusion: str) -> None:
    task, recipe = tiny_vqa(kind, fusion=fusion), tiny_recipe(kind)
    _, gradients = learn(task, [recipe.collate(make_rows())])
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained
    assert {name for name, _ in task.named_parameters()} - trained == {
        "model.image_proj.weight",
        "model.text_proj.weight",
        "model.itm_head.weight",
        "model.itm_head.bias",
        "model.vision.mask_token",
    }


@pytest.mark.parametrize(("kind", "loss"), KINDS)
def test_on_a_gpu_the_host_never_waits(
    kind: Any, loss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tests/models/test_models_sync.py: fake tensors have no value that could be asked for."""
    for module in ("layout", "text", "answer_decoder"):
        monkeypatch.setattr(f"vlpretrain.models.{module}.packs_rows", lambda device: False)
    task, recipe = tiny_vqa(kind, loss), tiny_recipe(kind)
    batch = recipe.collate(make_rows())
    task(batch)  # keeps the constants of the normalisation
    with FakeTensorMode(allow_non_fake_inputs=True):
        output: Any = task(batch)
        assert output.loss.shape == ()
        assert all(value.shape == () for value in output.metrics.values())
