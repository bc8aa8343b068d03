"""The training task: what its loss is a mean over, and what it leaves as it is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_classification import make_batch, split, tiny_task
from torch import Tensor

from vlpretrain.engine.optim import decay_groups
from vlpretrain.models.vision import VisionStates
from vlpretrain.tasks.classification import ClassificationTask


def gradients(task: ClassificationTask, batches: list) -> dict[str, Tensor]:
    """Of the mean over micro-batches, as the engine takes it."""
    task.zero_grad()
    for batch in batches:
        (task(batch).loss / len(batches)).backward()
    return {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_the_gradient_does_not_depend_on_the_division(probe: bool, parts: int) -> None:
    task = tiny_task(probe=probe, smoothing=0.1)
    # Micro-batches of different numbers of classes, one of none at all.
    batch = make_batch([0, 1, -1, -1, 2, -1, 1, 0])
    whole, divided = gradients(task, [batch]), gradients(task, split(batch, parts))
    assert whole.keys() == divided.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(divided[name], gradient, rtol=1e-4, atol=1e-6)


def test_metrics_do_not_depend_on_the_division() -> None:
    task = tiny_task()
    batch = make_batch([0, 1, -1, -1, 2, -1, 1, 0])
    whole = task(batch).metrics
    parts = [task(part).metrics for part in split(batch, 4)]
    assert set(whole) == {"loss/classification", "classification/accuracy"}
    for name, value in whole.items():
        mean = torch.stack([part[name] for part in parts]).mean()
        torch.testing.assert_close(mean, value)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_rows_with_a_class(smoothing: float) -> None:
    task = tiny_task(smoothing=smoothing)
    batch = make_batch([2, -1, 0, -1])
    logit_BC = task(batch, evaluate=True)[[0, 2]]
    share_BC = F.one_hot(torch.tensor([2, 0]), 3) * (1 - smoothing) + smoothing / 3
    expected = -(share_BC * logit_BC.log_softmax(1)).sum(1).mean()
    output = task(batch)
    torch.testing.assert_close(output.loss, expected)
    accuracy = (logit_BC.argmax(1) == torch.tensor([2, 0])).double().mean().item()
    assert output.metrics["classification/accuracy"].item() == pytest.approx(accuracy)


def test_rows_without_a_class_count_for_nothing() -> None:
    task = tiny_task()
    batch = make_batch([1, -1, 2, -1])
    other = replace(batch, pixels_BCHW=batch.pixels_BCHW.clone())
    other.pixels_BCHW[[1, 3]] = 255
    for name, gradient in gradients(task, [batch]).items():
        torch.testing.assert_close(gradients(task, [other])[name], gradient)
    nothing = task(make_batch([-1, -1]))
    assert nothing.loss.item() == 0
    nothing.loss.backward()
    assert all(p.grad.isfinite().all() for p in task.parameters() if p.grad is not None)


def test_without_knowledge_the_loss_is_that_of_chance() -> None:
    task = tiny_task(smoothing=0.1)
    torch.nn.init.zeros_(task.classifier.head.weight)
    assert task(make_batch([0, 1, 2])).loss.item() == pytest.approx(math.log(3))


def test_a_probe_leaves_the_tower_as_it_is() -> None:
    task = tiny_task(probe=True)
    task.model.vision.backbone.pos_drop.p = 0.9  # would show
    task.train()
    assert not any(module.training for module in task.model.modules())
    assert task.classifier.training
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    groups = decay_groups(task, 0.1)
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in task.classifier.parameters()}
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    for seed in range(2):
        first = task(make_batch([0, 1, 2], seed), evaluate=True)
        assert torch.equal(first, task(make_batch([0, 1, 2], seed), evaluate=True))
        task(make_batch([0, 1, 2], seed)).loss.backward()
        optimizer.step()
    assert all(parameter.grad is None for parameter in task.model.parameters())
    changed = {n for n, tensor in task.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {"classifier.head.weight", "classifier.head.bias"}


def test_a_probe_reads_features_of_one_size() -> None:
    classifier = tiny_task(probe=True).classifier
    token_BND = torch.randn(4, 17, 16)

    def logits(scale: float, shift: float) -> Tensor:
        states = VisionStates(token_BND * scale + shift, token_BND[:, 0] * scale + shift, 1)
        return classifier(states)

    torch.testing.assert_close(logits(100.0, 7.0), logits(1.0, 0.0), rtol=1e-3, atol=1e-3)


def test_fine_tuning_trains_what_it_reads_and_nothing_else() -> None:
    task = tiny_task()
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    expected = {n for n, _ in task.named_parameters() if n.startswith(("model.vision.", "class"))}
    assert trained == expected - {"model.vision.mask_token"}
    task.train()
    task(make_batch([0, 1, 2])).loss.backward()
    assert {name for name, p in task.named_parameters() if p.grad is not None} == trained


def test_the_mean_of_the_patches_can_be_read() -> None:
    task = tiny_task(pool="patches").eval()
    batch = make_batch([0, 1])
    token_BND = task.model.vision(batch.pixels_BCHW).token_BND
    expected = task.classifier.head(token_BND[:, 1:].mean(1))
    torch.testing.assert_close(task(batch, evaluate=True), expected)


def test_logits_are_float_in_half_precision() -> None:
    task = tiny_task(classes=200).to(torch.bfloat16)
    logit_BC = task(make_batch([0, 1]), evaluate=True)
    assert logit_BC.dtype == torch.float32
    assert all(len(row.unique()) == 200 for row in logit_BC)
