"""The task as a whole: no work twice, exact parts, schedules, rows that do not disturb others."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny_pretrain import count, make_batch, off, split, tiny_task
from torch import Tensor

from vlpretrain.config.schema import ItcConfig, ItmConfig, MimConfig, MlmConfig, ScheduleConfig
from vlpretrain.engine.contrast import gather_parts
from vlpretrain.errors import UserError
from vlpretrain.objectives.base import RAMP_FROM, objective_weight
from vlpretrain.objectives.pretrain import PretrainTask
from vlpretrain.objectives.table import num_visible_blocks
from vlpretrain.types import COUNTS, Batch, GlobalEmbeddings


def count_calls(task: PretrainTask) -> Counter[str]:
    calls: Counter[str] = Counter()

    def counter(name: str):  # noqa: ANN202
        return lambda *_: calls.update([name])

    for name in ("vision", "text", "fusion"):
        getattr(task.model, name).register_forward_hook(counter(name))
    return calls


def gradients(task: PretrainTask, loss: Tensor) -> dict[str, Tensor]:
    task.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in task.named_parameters() if p.grad is not None}


def some_incomplete(batch: Batch) -> Batch:
    """Row 1 without a text, row 5 without a picture."""
    image_present_B, text_present_B = batch.image_present_B.clone(), batch.text_present_B.clone()
    text_present_B[1] = False
    image_present_B[5] = False
    return count(replace(batch, image_present_B=image_present_B, text_present_B=text_present_B))


# --- no work twice --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mim", "vision_calls"),
    [
        (MimConfig(), 1),
        (MimConfig(encode="visible"), 1),
        (MimConfig(image_pass="separate"), 2),
        (off(MimConfig), 1),
    ],
)
def test_towers_and_fusion_run_once_for_all_objectives(mim: MimConfig, vision_calls: int) -> None:
    task = tiny_task(mim=mim)
    calls = count_calls(task)
    task(make_batch())
    assert calls == {"vision": vision_calls, "text": 1, "fusion": 1}


def test_prepass_runs_the_towers_alone() -> None:
    task = tiny_task(mim=MimConfig(image_pass="separate"))
    calls = count_calls(task)
    output = task(make_batch(), prepass=True)
    assert calls == {"vision": 1, "text": 1}
    assert output.embeddings.image_BE.shape == (6, 8)


def test_an_objective_alone_runs_what_it_needs() -> None:
    task = tiny_task(itm=off(ItmConfig), itc=off(ItcConfig), mlm=off(MlmConfig))
    calls = count_calls(task)
    task(make_batch())
    assert calls == {"vision": 1}
    task = tiny_task(mim=off(MimConfig), itm=off(ItmConfig), mlm=off(MlmConfig))
    calls = count_calls(task)
    task(make_batch())
    assert calls == {"vision": 1, "text": 1}


# --- exact parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_have_the_one_big_batchs_loss_and_gradient(parts: int) -> None:
    task = tiny_task(itm=off(ItmConfig))
    batch = some_incomplete(make_batch(8))
    whole = task(batch)
    expected = gradients(task, whole.loss)
    pieces = split(batch, parts)
    with torch.no_grad():
        others = gather_parts([task(piece, prepass=True).embeddings for piece in pieces])
    outputs = [task(p, others=o) for p, o in zip(pieces, others, strict=True)]
    loss = torch.stack([output.loss for output in outputs]).mean()
    torch.testing.assert_close(loss, whole.loss)
    for name, value in whole.metrics.items():
        mean = torch.stack([output.metrics[name] for output in outputs]).mean()
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6)
    got = gradients(task, loss)
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("mim", [MimConfig(), MimConfig(image_pass="separate")])
def test_a_replay_with_dropout_meets_its_own_embeddings(mim: MimConfig) -> None:
    task, batch = tiny_task(dropout=0.3, mim=mim), make_batch()
    torch.manual_seed(5)
    first = task(batch, prepass=True).embeddings
    seen = []
    task.objectives["itc"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(5)
    task(batch)
    assert torch.equal(first.image_BE, seen[0].embeddings.image_BE)
    assert torch.equal(first.text_BE, seen[0].embeddings.text_BE)
    assert not torch.equal(first.text_BE, task(batch, prepass=True).embeddings.text_BE)


# --- schedules ------------------------------------------------------------------------------------


def test_weight_over_the_run() -> None:
    weights = [
        objective_weight(2.0, 0.25, 0.75, 0.25, p) for p in (0, 0.25, 0.375, 0.5, 0.74, 0.75)
    ]
    assert weights == [0, 2 * RAMP_FROM, 1, 2, 2, 0]
    assert objective_weight(2.0, 0.0, 1.0, 0.0, 0.0) == 2
    assert objective_weight(2.0, 0.0, 1.0, 0.0, 1.0) == 2


def test_an_objective_outside_its_schedule_is_not_computed() -> None:
    task = tiny_task(itc=ItcConfig(schedule=ScheduleConfig(start=0.5)), itm=off(ItmConfig))
    early = replace(make_batch(), progress=0.4)
    assert not task.needs_prepass(0.4)
    assert task.needs_prepass(0.5)
    assert set(task(early).metrics) & {"loss/itc"} == set()
    assert "loss/itc" in task(replace(early, progress=0.5)).metrics


def test_the_loss_is_the_weighted_sum() -> None:
    task = tiny_task(mim=MimConfig(weight=0.5), itc=ItcConfig(weight=2.0))
    output = task(make_batch())
    loss = {name: output.metrics[f"loss/{name}"] for name in ("mim", "itm", "itc", "mlm")}
    expected = 0.5 * loss["mim"] + loss["itm"] + 2 * loss["itc"] + loss["mlm"]
    torch.testing.assert_close(output.loss.detach(), expected)


# --- rows and padding -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross", "merged", "concat"])
def test_rows_that_are_no_pair_disturb_no_loss(kind: str) -> None:
    """What stands in for a missing picture or text is read by nobody but MLM's own blank."""
    task = tiny_task(kind=kind, itm=ItmConfig(hard_from=1.0)).eval()
    batch = some_incomplete(make_batch(8))
    kept_M = batch.hidden_word_index_M // 7 != 5  # the text without a picture, where MLM reads one
    batch = count(
        replace(
            batch,
            hidden_word_index_M=batch.hidden_word_index_M[kept_M],
            hidden_word_target_M=batch.hidden_word_target_M[kept_M],
        )
    )
    pixels_BCHW, text_BT = batch.pixels_BCHW.clone(), batch.text_BT.clone()
    pixels_BCHW[5] = 255 - pixels_BCHW[5]
    text_BT[1] = text_BT[1].flip(0)
    changed = task(replace(batch, pixels_BCHW=pixels_BCHW, text_BT=text_BT)).metrics
    for name, value in task(batch).metrics.items():
        torch.testing.assert_close(changed[name], value, rtol=1e-5, atol=1e-6)


def judged_and_words(task: PretrainTask, batch: Batch) -> tuple[Tensor, Tensor]:
    """Matching logits of the own pairs, and word logits."""
    seen = []
    hook = task.objectives["mlm"].head.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        output = task(batch, evaluate=True)
    hook.remove()
    return output.outputs["itm"].judged.logit_P2[: len(batch)], seen[0]


@pytest.mark.parametrize("kind", ["cross", "merged", "concat"])
def test_logits_depend_on_neither_padding_nor_the_rest_of_the_batch(kind: str) -> None:
    task, batch = tiny_task(kind=kind).eval(), make_batch(6, tokens=7)
    matches_P2, words_MV = judged_and_words(task, batch)

    padded = torch.nn.functional.pad
    row_M, column_M = batch.hidden_word_index_M // 7, batch.hidden_word_index_M % 7
    longer = replace(
        batch,
        text_BT=padded(batch.text_BT, (0, 4), value=9),
        masked_text_BT=padded(batch.masked_text_BT, (0, 4), value=9),
        text_valid_BT=padded(batch.text_valid_BT, (0, 4)),
        hidden_word_index_M=row_M * 11 + column_M,
    )
    for got, expected in zip(judged_and_words(task, longer), (matches_P2, words_MV), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    first = split(batch, 3)[0]
    for got, expected in zip(
        judged_and_words(task, first), (matches_P2[:2], words_MV[:4]), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


# --- nothing to learn from, and extremes ----------------------------------------------------------


def test_no_hidden_word_gives_the_head_a_zero_gradient() -> None:
    task = tiny_task()
    nothing_M = torch.empty(0, dtype=torch.int64)
    batch = count(
        replace(make_batch(), hidden_word_index_M=nothing_M, hidden_word_target_M=nothing_M)
    )
    output = task(batch)
    output.loss.backward()
    assert output.metrics["loss/mlm"] == 0
    assert all((p.grad == 0).all() for p in task.objectives["mlm"].parameters())


@pytest.mark.parametrize("mim", [MimConfig(), MimConfig(encode="visible"), MimConfig(loss="mse")])
def test_every_parameter_of_a_running_part_gets_a_gradient(mim: MimConfig) -> None:
    task = tiny_task(mim=mim)
    task(make_batch()).loss.backward()
    without = {name for name, p in task.named_parameters() if p.grad is None}
    assert without == ({"model.vision.mask_token"} if mim.encode == "visible" else set())


@pytest.mark.parametrize("size", [1, 6])
def test_all_rows_alike_leave_no_negative_and_no_nan(size: int) -> None:
    task, batch = tiny_task(), make_batch(size)
    output = task(replace(batch, image_id_B=torch.zeros_like(batch.image_id_B)))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in task.parameters())
    assert output.metrics["itm/accuracy"] <= 1 / 3


def test_no_pair_at_all_gives_finite_gradients() -> None:
    task, batch = tiny_task(), make_batch()
    nobody_B = torch.zeros(len(batch), dtype=torch.bool)
    output = task(count(replace(batch, image_present_B=nobody_B)))
    output.loss.backward()
    assert [float(output.metrics[f"loss/{name}"]) for name in ("mim", "itm", "itc")] == [0, 0, 0]
    assert all(p.grad.isfinite().all() for p in task.parameters())


def test_a_positive_that_leads_by_200_logits_gives_no_nan() -> None:
    task, batch = tiny_task(), make_batch()
    # The same direction for row i of both sides, another for every other row.
    direction_BE = torch.eye(6, 8)
    everyone = GlobalEmbeddings(
        direction_BE,
        direction_BE,
        torch.ones(6, dtype=torch.bool),
        batch.image_id_B,
        batch.text_id_B,
        0,
        1,
    )
    task.temperature.forward = lambda: torch.tensor(200.0, requires_grad=True)
    output = task(batch, others=everyone)
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in task.model.parameters())


def test_bf16_weights_give_fp32_losses_near_those_of_fp32() -> None:
    task, batch = tiny_task(), make_batch()
    exact = task(batch).metrics
    rounded = task.bfloat16()(batch)
    assert rounded.loss.dtype == torch.float32
    for name in ("loss/mim", "loss/mlm", "mim/mean_colour"):
        torch.testing.assert_close(rounded.metrics[name], exact[name], rtol=0.03, atol=0.01)


# --- masked images --------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["l1", "mse"])
@pytest.mark.parametrize("normalise", [False, True])
def test_mean_colour_is_what_predicting_it_costs(loss: str, normalise: bool) -> None:
    task = tiny_task(mim=MimConfig(loss=loss, normalise_target=normalise))
    batch = make_batch()
    colour_BCHW = task.model.vision.normalise(batch.pixels_BCHW)
    total = 0.0
    for colour_CHW, hidden_G in zip(colour_BCHW, batch.block_hidden_BG, strict=True):
        hidden_HW = hidden_G.view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1)
        guess_C11 = colour_CHW[:, ~hidden_HW].mean(1)[:, None, None]
        if normalise:
            patch = colour_CHW.unfold(1, 8, 8).unfold(2, 8, 8)
            mean, std = patch.mean((-1, -2), keepdim=True), patch.var((-1, -2), keepdim=True)
            patch = (patch - mean) / (std + 1e-6).sqrt()
            colour_CHW = patch.transpose(2, 3).reshape(3, 32, 32)
            guess_C11 = torch.zeros_like(guess_C11)
        apart = colour_CHW[:, hidden_HW] - guess_C11[:, 0]
        total += float(apart.abs().sum() if loss == "l1" else apart.square().sum())
    hidden_pixels = batch.counts[COUNTS.index("hidden_blocks")] * 16 * 16
    expected = total / float(hidden_pixels * 3)
    assert float(task(batch).metrics["mim/mean_colour"]) == pytest.approx(expected, rel=1e-4)


def test_visible_encoding_does_not_see_hidden_pixels() -> None:
    task = tiny_task(mim=MimConfig(encode="visible")).eval()
    batch = make_batch()
    hidden_B = (
        batch.block_hidden_BG.view(-1, 2, 1, 2, 1).expand(-1, 2, 16, 2, 16).reshape(-1, 32, 32)
    )
    other_BCHW = torch.where(hidden_B[:, None], 255 - batch.pixels_BCHW, batch.pixels_BCHW)
    pictures = [
        task(replace(batch, pixels_BCHW=p), evaluate=True).outputs["mim"].picture_BCHW
        for p in (batch.pixels_BCHW, other_BCHW)
    ]
    assert torch.equal(*pictures)


def test_the_visible_blocks_are_known_without_looking_at_a_batch() -> None:
    mim = MimConfig(block=8, ratio=0.6, encode="visible")
    assert num_visible_blocks(32, mim) == 16 - 10
    assert num_visible_blocks(32, MimConfig(block=8)) == 0
    with pytest.raises(UserError, match="hides all 16 blocks"):
        num_visible_blocks(32, replace(mim, ratio=0.99))
