"""The evaluator: figures that are worth their names, and pictures that show what they say."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pretrain import count, make_batch, off, tiny_task

from vlpretrain.config.schema import ItcConfig, ItmConfig, MimConfig, MlmConfig
from vlpretrain.errors import UserError
from vlpretrain.tasks.gallery import PAIRS, RECONSTRUCTIONS
from vlpretrain.tasks.pretrain_evaluator import PretrainEvaluator, retrieval_figures
from vlpretrain.types import Batch, Embeddings


def read_text(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def evaluator_of(*batches: Batch) -> PretrainEvaluator:
    return PretrainEvaluator(batches, read_text)


def test_figures_and_their_chance(tmp_path: Path) -> None:
    figures = evaluator_of(make_batch(6), make_batch(4, seed=1))(tiny_task(), tmp_path)
    for way in ("image_to_text", "text_to_image"):
        recall = [figures[f"val/{way}_recall@{k}"] for k in (1, 5, 10)]
        assert 0 <= recall[0] <= recall[1] <= recall[2] == 1
        assert 1 <= figures[f"val/{way}_median_rank"] <= 10
    assert figures["val/chance_recall@1"] == pytest.approx(0.1)
    assert figures["val/chance_recall@5"] == pytest.approx(0.5)
    assert 0 <= figures["val/itm_accuracy"] <= 1
    assert {"val/loss/mim", "val/mim/mean_colour", "val/loss/mlm", "val/mlm/accuracy"} < set(
        figures
    )
    assert all(np.isfinite(value) for value in figures.values())


def test_the_same_figures_every_time_and_the_task_left_as_it_was(tmp_path: Path) -> None:
    task = tiny_task(dropout=0.5)
    evaluator = evaluator_of(make_batch(6), make_batch(4, seed=1))
    before = {name: value.clone() for name, value in task.state_dict().items()}
    assert evaluator(task, tmp_path) == evaluator(task, tmp_path)
    assert task.training
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())


def test_losses_do_not_depend_on_how_samples_are_batched(tmp_path: Path) -> None:
    """Batches of unlike size count by what they hold."""
    task, batch = tiny_task(itm=off(ItmConfig)), make_batch(6)
    whole = evaluator_of(batch)(task, tmp_path)
    kept_M = batch.hidden_word_index_M < 4 * 7
    first = rows_of(batch, slice(0, 4), batch.hidden_word_index_M[kept_M], kept_M)
    second = rows_of(batch, slice(4, 6), batch.hidden_word_index_M[~kept_M] - 4 * 7, ~kept_M)
    parts = evaluator_of(first, second)(task, tmp_path)
    assert parts == pytest.approx(whole, rel=1e-5)


def rows_of(batch: Batch, rows: slice, index_M: torch.Tensor, kept_M: torch.Tensor) -> Batch:
    named = {n: getattr(batch, n)[rows] for n in Batch.__dataclass_fields__ if "_B" in n}
    return count(
        replace(
            batch,
            **named,
            keys=batch.keys[rows],
            hidden_word_index_M=index_M,
            hidden_word_target_M=batch.hidden_word_target_M[kept_M],
        )
    )


def test_perfect_embeddings_are_found_and_equal_captions_are_right_too() -> None:
    own_BE = torch.eye(4)
    ids_B = torch.arange(4)
    embeddings = Embeddings(own_BE, own_BE, torch.ones(4, dtype=torch.bool), ids_B, ids_B)
    assert retrieval_figures([embeddings])["val/image_to_text_recall@1"] == 1
    swapped = replace(embeddings, text_BE=own_BE[[1, 0, 2, 3]])
    assert retrieval_figures([swapped])["val/image_to_text_recall@1"] == 0.5
    same_caption = replace(swapped, text_id_B=torch.tensor([0, 0, 2, 3]))
    assert retrieval_figures([same_caption])["val/image_to_text_recall@1"] == 1


def test_rows_that_are_no_pair_are_not_searched() -> None:
    own_BE, ids_B = torch.eye(4), torch.arange(4)
    valid_B = torch.tensor([True, True, False, False])
    figures = retrieval_figures([Embeddings(own_BE, own_BE, valid_B, ids_B, ids_B)])
    assert figures["val/chance_recall@1"] == 0.5


@pytest.mark.parametrize("mim", [MimConfig(), MimConfig(encode="visible", normalise_target=True)])
def test_pictures_of_the_report(tmp_path: Path, mim: MimConfig) -> None:
    batch = make_batch(8)
    evaluator_of(batch)(tiny_task(mim=mim), tmp_path)
    listing = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(listing["reconstructions"]) == RECONSTRUCTIONS
    for row, entry in enumerate(listing["reconstructions"]):
        original, masked, whole = (
            np.asarray(Image.open(tmp_path / entry[part]))
            for part in ("original", "masked", "reconstructed")
        )
        expected = batch.pixels_BCHW[row].permute(1, 2, 0).numpy()
        hidden_HW = batch.block_hidden_BG[row].view(2, 2).numpy().repeat(16, 0).repeat(16, 1)
        assert (original == expected).all()
        assert (masked[hidden_HW] == 128).all()
        assert (masked[~hidden_HW] == expected[~hidden_HW]).all()
        assert (whole[~hidden_HW] == expected[~hidden_HW]).all()
        assert (whole[hidden_HW] != 128).any()


def test_pairs_of_the_report_are_extreme_and_name_their_own_text(tmp_path: Path) -> None:
    batches = [make_batch(8), make_batch(8, seed=1)]
    evaluator_of(*batches)(tiny_task(), tmp_path)
    pairs = json.loads((tmp_path / "evaluation.json").read_text())["pairs"]
    texts = [
        read_text(batch.text_BT[row][batch.text_valid_BT[row]].tolist())
        for batch in batches
        for row in range(8)
    ]
    pictures = [pixels.permute(1, 2, 0).numpy() for b in batches for pixels in b.pixels_BCHW]
    matched = [pair for pair in pairs if pair["matched"]]
    assert len(matched) == 2 * PAIRS
    best, worst = matched[:PAIRS], matched[PAIRS:]
    assert min(pair["score"] for pair in best) >= max(pair["score"] for pair in worst)
    for pair in pairs:
        picture = np.asarray(Image.open(tmp_path / pair["image"]))
        rows = [row for row, own in enumerate(pictures) if (own == picture).all()]
        assert len(rows) == 1
        assert (texts[rows[0]] == pair["caption"]) == pair["matched"]


def test_objectives_that_are_off_leave_their_figures_out(tmp_path: Path) -> None:
    task = tiny_task(itm=off(ItmConfig), itc=off(ItcConfig), mlm=off(MlmConfig))
    assert set(evaluator_of(make_batch())(task, tmp_path)) == {
        "val/loss/mim",
        "val/mim/mean_colour",
    }
    assert json.loads((tmp_path / "evaluation.json").read_text())["pairs"] == []


def test_nothing_to_evaluate_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no held-out sample"):
        evaluator_of()(tiny_task(), tmp_path)
