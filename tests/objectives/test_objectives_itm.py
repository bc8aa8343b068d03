"""Which negatives matching draws, and when."""

from dataclasses import replace

import pytest
import torch
from tiny_pretrain import make_batch, tiny_task

from vlpretrain.config.schema import ItmConfig
from vlpretrain.objectives.features import Features
from vlpretrain.objectives.itm import ImageTextMatching
from vlpretrain.types import GlobalEmbeddings

SIZE = 8


def chosen_texts(progress: float) -> torch.Tensor:
    """Negative texts of 200 draws; picture i looks most like text i + 1, by far."""
    task = tiny_task(itm=ItmConfig(hard_from=0.5))
    objective = task.objectives["itm"]
    assert isinstance(objective, ImageTextMatching)
    batch = make_batch(SIZE)
    everyone = GlobalEmbeddings(
        image_BE=torch.eye(SIZE),
        text_BE=torch.eye(SIZE).roll(1, dims=1),
        pair_valid_B=torch.ones(SIZE, dtype=torch.bool),
        image_id_B=torch.arange(SIZE),
        text_id_B=torch.arange(SIZE),
        start=0,
        num_parts=1,
    )
    features = Features(
        task.model, torch.tensor(100.0), None, None, None, None, None, everyone, evaluating=False
    )
    draws = []
    for seed in range(200):
        told = replace(batch, seed=seed, progress=progress)
        draws.append(objective._draw_negatives(features, told).text.index_B)
    return torch.stack(draws)


@pytest.mark.parametrize("progress", [0.5, 0.9])
def test_from_its_share_of_the_run_on_negatives_are_the_most_similar(progress: float) -> None:
    most_similar = (torch.arange(SIZE) - 1) % SIZE
    assert (chosen_texts(progress) == most_similar).all()


def test_before_it_they_are_drawn_evenly() -> None:
    drawn = chosen_texts(0.4)
    assert (drawn != torch.arange(SIZE)).all()
    counts = torch.stack([(drawn == column).sum() for column in range(SIZE)])
    assert counts.min() > 0.6 * 200
    assert counts.max() < 1.4 * 200
