"""Held-out samples: texts at once, pictures on demand."""

from __future__ import annotations

import pytest
import torch
from question_shards import BROKEN, ask, noise, open_folder, png, write_shard

from vlpretrain.data.held_out import HeldOut, read_texts
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.shards import Source
from vlpretrain.data.transforms import PictureSettings
from vlpretrain.types import Position, RawSample, Skip

SETTINGS = PictureSettings(image_size=16, crop="random", flip=True, seed=5)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Samples a to f in three shards of two sources; b is broken, e's JSON is no record."""
    folder = tmp_path_factory.mktemp("held-out")
    record = {"questions": [ask("what?")]}
    write_shard(folder / "one/0.tar", {"a": record, "b": record}, {"a": [png(1)], "b": [BROKEN]})
    write_shard(folder / "one/1.tar", {"c": record}, {"c": [png(3), png(4)]})
    write_shard(
        folder / "two/0.tar",
        {"d": record, "e": {"captions": 7}, "f": record},
        {"d": [noise()], "f": [png(6)]},
    )
    return [open_folder(folder / "one"), open_folder(folder / "two")]


def grey_of(pixels_BCHW: torch.Tensor) -> list[float]:
    return pixels_BCHW.flatten(1).float().mean(1).tolist()


def test_samples_stand_in_the_order_of_their_files(sources: list[Source]) -> None:
    held_out = HeldOut(sources, SETTINGS)
    assert [sample.key for sample in held_out.samples] == ["a", "b", "c", "d", "f"]
    assert len(held_out) == 5
    assert [(skip.key, "captions" in skip.reason) for skip in held_out.skips] == [("e", True)]
    assert held_out.samples[0].metadata["questions"] == [ask("what?")]


def test_a_limit_takes_the_first(sources: list[Source]) -> None:
    assert [sample.key for sample in HeldOut(sources, SETTINGS, 3).samples] == ["a", "b", "c"]
    assert len(HeldOut(sources, SETTINGS, 99)) == 5


def test_pictures_are_read_in_any_order_and_alike_each_time(sources: list[Source]) -> None:
    held_out = HeldOut(sources, SETTINGS)
    assert grey_of(held_out.pixels([4, 0, 2, 0])) == [6, 1, 3, 1]
    assert held_out.pixels([4]).dtype == torch.uint8
    assert held_out.pixels([]).shape == (0, 3, 16, 16)
    # Neither crop nor mirror is drawn.
    assert torch.equal(held_out.pixels([3]), held_out.pixels([3]))
    again = HeldOut(sources, PictureSettings(image_size=16, crop="centre"))
    assert torch.equal(held_out.pixels([3]), again.pixels([3]))


def test_what_cannot_be_seen_is_black_and_named_once(sources: list[Source]) -> None:
    held_out = HeldOut(sources[:1], SETTINGS)
    for _ in range(2):
        assert grey_of(held_out.pixels([0, 1])) == [1, 0]
    (skip,) = held_out.skips
    assert skip.key == "b"
    assert skip.shard.endswith("0.tar")


def test_the_second_picture(sources: list[Source]) -> None:
    held_out = HeldOut(sources[:1], SETTINGS)
    assert grey_of(held_out.pixels([2], number=1)) == [4]
    assert grey_of(held_out.pixels([0], number=1)) == [0]
    assert [skip.reason for skip in held_out.skips] == ["no picture number 2"]


def test_texts_are_read_without_any_picture(
    sources: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: ShardReader, position: Position) -> RawSample:
        raise AssertionError(f"{position} was read with its picture")

    monkeypatch.setattr(ShardReader, "read", read)
    skips: list[Skip] = []
    samples = [sample for _, sample in read_texts(sources, ShardReader(sources), skips)]
    assert [(sample.image, sample.images) for sample in samples] == [(None, ())] * 5
    assert [skip.key for skip in skips] == ["e"]
