"""The same global batches at any number of ranks, workers and micro-batches."""

import functools
import gc
import io
import itertools
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from vlpretrain.config.schema import DataConfig
from vlpretrain.data.collate import PairRecipe
from vlpretrain.data.keyed import generator
from vlpretrain.data.loader import (
    BatchMaker,
    Loader,
    LoaderSettings,
    evaluation_batches,
    num_micro_steps,
)
from vlpretrain.data.order import SampleOrder
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.shards import open_source
from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.data.transforms import SampleSettings
from vlpretrain.errors import UserError
from vlpretrain.types import Position, RawSample

CAPTIONS = ("a red ball", "two blue cubes on a table", "the big green cone left of a ball")
SETTINGS = SampleSettings(image_size=16, block=8, flip=True, max_tokens=8, seed=3)


@functools.cache
def tokeniser():
    return train_wordpiece(CAPTIONS * 3, 60)


class ShuffledOrder:
    """Every sample once an epoch, in an order of each epoch's own."""

    def __init__(self, length, shuffle=True):
        self.epoch_length = length
        self.shuffle = shuffle

    def locate(self, first, last):
        return [self._locate(place) for place in range(first, last)]

    def _locate(self, place):
        epoch, offset = divmod(place, self.epoch_length)
        rows = np.arange(self.epoch_length)
        if self.shuffle:
            rows = generator(0, epoch, "order", "test").permutation(rows)
        return Position(epoch, place, 0, 0, int(rows[offset]))


class MemoryReader:
    """Samples made on the spot; the rows in `broken` hold a picture that can't be decoded."""

    def __init__(self, broken=()):
        self.broken = broken

    def read(self, position):
        row = position.row
        parts = {"jpg": b"\xff\xd8 broken" if row in self.broken else jpeg(row)}
        parts["txt"] = CAPTIONS[row % 3].encode()
        return RawSample(f"{row:04d}", "shards/a.tar", parts)


class FailingReader:
    def __init__(self, error):
        self.error = error

    def read(self, position):
        raise self.error(f"disk gone at row {position.row}")


@functools.cache
def jpeg(row):
    pixels = np.random.default_rng(row).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def quick_end(monkeypatch):
    """Shortens torch's wait for the worker of an iterator that an exception's traceback holds."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)
    yield
    gc.collect()


def maker(samples=50, broken=(), settings=SETTINGS):
    recipe = PairRecipe(tokeniser(), settings)
    return BatchMaker(ShuffledOrder(samples), MemoryReader(broken), recipe)


def rows_of(batch):
    """Each row's content, freed from the padding and from its place in the micro-batch."""
    columns = batch.text_BT.shape[1]
    for place, key in enumerate(batch.keys):
        valid_T = batch.text_valid_BT[place]
        own_M = batch.hidden_word_index_M // columns == place
        yield (
            key,
            batch.pixels_BCHW[place].numpy().tobytes(),
            tuple(batch.text_BT[place][valid_T].tolist()),
            tuple(batch.masked_text_BT[place][valid_T].tolist()),
            tuple((batch.hidden_word_index_M[own_M] % columns).tolist()),
            tuple(batch.hidden_word_target_M[own_M].tolist()),
            tuple(batch.block_hidden_BG[place].tolist()),
            int(batch.image_id_B[place]),
            int(batch.text_id_B[place]),
        )


def global_batches(steps, world_size, **settings):
    """Global batches put together from every rank's share, row by row."""
    settings = LoaderSettings(48, **settings)
    ranks = [Loader(maker(), settings, rank, world_size) for rank in range(world_size)]
    shares = zip(*[list(loader.steps(*steps)) for loader in ranks], strict=True)
    return [
        [
            row
            for micro_step in zip(*(data.micro_batches for data in share), strict=True)
            for batch in micro_step
            for row in rows_of(batch)
        ]
        for share in shares
    ]


@functools.cache
def reference():
    return global_batches((0, 5), world_size=1, workers=0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("micro_batch", [1, 2, 0])
def test_global_batches_do_not_depend_on_ranks_and_micro_batches(world_size, micro_batch):
    got = global_batches((0, 5), world_size, workers=0, micro_batch=micro_batch)
    assert got == reference()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_global_batches_do_not_depend_on_workers(world_size, workers):
    got = global_batches((1, 3), world_size, workers=workers, micro_batch=2)
    assert got == reference()[1:3]


def test_every_sample_comes_once_an_epoch_and_batches_run_over_its_end():
    keys = [row[0] for batch in reference() for row in batch]
    first, second = keys[:50], keys[50:100]
    assert len(set(first)) == len(set(second)) == 50
    assert set(first) == set(second)
    assert first != second


def test_a_sample_looks_different_in_the_next_epoch():
    rows = [row for batch in reference() for row in batch]
    first = {row[0]: row[1] for row in rows[:50]}
    assert sum(first[row[0]] != row[1] for row in rows[50:100]) > 40


def test_starting_at_a_step_equals_iterating_to_it():
    assert global_batches((3, 5), world_size=2, workers=0) == reference()[3:5]


def test_one_loader_serves_many_ranges_even_when_one_is_left_early():
    loader = Loader(maker(), LoaderSettings(48, micro_batch=12, workers=1))
    next(loader.steps(0, 50))
    (data,) = loader.steps(2, 3)
    assert [row for batch in data.micro_batches for row in rows_of(batch)] == reference()[2]


def test_the_runs_random_state_is_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(Loader(maker(), LoaderSettings(6, workers=0)).steps(0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_broken_sample_is_replaced_reported_and_disturbs_no_other():
    good = Loader(maker(), LoaderSettings(10)).steps(0, 5)
    bad = list(Loader(maker(broken=(7,)), LoaderSettings(10, max_skipped=1)).steps(0, 5))
    skips = [skip for data in bad for skip in data.skips]
    assert [(skip.shard, skip.key) for skip in skips] == [("shards/a.tar", "0007")]
    assert "decoded" in skips[0].reason
    pairs = zip(good, bad, strict=True)
    rows = [
        (left, right)
        for one, other in pairs
        for left, right in zip(
            rows_of(one.micro_batches[0]), rows_of(other.micro_batches[0]), strict=True
        )
    ]
    changed = [left[0] for left, right in rows if left != right]
    assert changed == ["shards/a.tar/0007"]


def test_a_substitute_does_not_depend_on_the_ranks():
    def keys(world_size):
        shares = [
            next(Loader(maker(broken=range(0, 50, 2)), LoaderSettings(24, max_skipped=9), rank,
                        world_size).steps(0, 1))
            for rank in range(world_size)
        ]  # fmt: skip
        return [key for share in shares for key in share.micro_batches[0].keys]

    assert keys(1) == keys(2) == keys(3)
    assert all(int(key[-4:]) % 2 for key in keys(1))


def test_too_many_skips_stop_the_run_with_the_first_reasons():
    loader = Loader(maker(broken=(1, 2, 3)), LoaderSettings(10, max_skipped=0.05))
    with pytest.raises(UserError, match=r"(?s)of 50 samples.*share of 0\.05.*a\.tar/000"):
        list(loader.steps(0, 5))


def test_a_run_that_goes_on_remembers_what_was_skipped():
    loader = Loader(maker(broken=(1,)), LoaderSettings(10, max_skipped=0.05))
    with pytest.raises(UserError, match=r"[67] of 60 samples"):
        list(loader.steps(5, 10, skipped=6))
    assert len(list(loader.steps(5, 10, skipped=0))) == 5


@pytest.mark.usefixtures("quick_end")
@pytest.mark.parametrize("workers", [0, 1])
def test_the_search_for_a_substitute_ends(workers):
    loader = Loader(maker(broken=range(50)), LoaderSettings(10, workers=workers))
    with pytest.raises(UserError, match="20 substitutes") as caught:
        next(loader.steps(0, 1))
    assert "Traceback" not in str(caught.value)
    assert "validate" in caught.value.fix


def failing_loader(error):
    failing = BatchMaker(ShuffledOrder(30), FailingReader(error), PairRecipe(tokeniser(), SETTINGS))
    return Loader(failing, LoaderSettings(10, workers=1))


@pytest.mark.usefixtures("quick_end")
def test_a_workers_exception_arrives_with_its_cause():
    with pytest.raises(RuntimeError, match="disk gone at row"):
        next(failing_loader(RuntimeError).steps(0, 1))


@pytest.mark.usefixtures("quick_end")
def test_a_shard_that_has_gone_is_said_without_a_traceback():
    with pytest.raises(UserError, match="disk gone at row") as caught:
        next(failing_loader(UserError).steps(0, 1))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "world_size", "advice"),
    [
        (100, 16, 3, "96 or 144"),
        (5, 1, 8, "set it to 8"),
        (24, 5, 2, "train.micro_batch to 4"),
        (0, 1, 2, "set it to 2"),
    ],
)
def test_indivisible_batches_name_what_works(global_batch, micro_batch, world_size, advice):
    with pytest.raises(UserError) as caught:
        num_micro_steps(global_batch, micro_batch, world_size)
    assert advice in caught.value.fix
    assert str(global_batch) in caught.value.problem


def write_shard(path, rows):
    with tarfile.open(path, "w") as shard:
        for row in rows:
            for name, content in ((f"{row:04d}.jpg", jpeg(row)), (f"{row:04d}.txt", b"a ball")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("workers", [0, 2])
def test_real_shards_are_read_once_an_epoch_and_alike_where_they_lie_elsewhere(tmp_path, workers):
    def epoch(folder):
        folder.mkdir()
        for shard in range(3):
            write_shard(folder / f"{shard}.tar", range(shard * 8, shard * 8 + 8))
        source = open_source(str(folder), DataConfig())
        order = SampleOrder([source.sizes.tolist()], seed=1, block=2)
        reading = BatchMaker(order, ShardReader([source]), PairRecipe(tokeniser(), SETTINGS))
        steps = Loader(reading, LoaderSettings(8, micro_batch=4, workers=workers)).steps(0, 3)
        return [row for data in steps for batch in data.micro_batches for row in rows_of(batch)]

    rows, moved = epoch(tmp_path / "here"), epoch(tmp_path / "there")
    assert sorted(row[0][-4:] for row in rows) == [f"{row:04d}" for row in range(24)]
    assert [row[1:] for row in rows] == [row[1:] for row in moved]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_is_the_first_samples_in_order_alike_every_time(world_size):
    def rows():
        evaluation = BatchMaker(
            ShuffledOrder(30, shuffle=False), MemoryReader((4,)), PairRecipe(tokeniser(), SETTINGS)
        )
        per_rank = [
            list(evaluation_batches(evaluation, samples=11, batch=2, rank=rank,
                                    world_size=world_size))
            for rank in range(world_size)
        ]  # fmt: skip
        assert len({len(batches) for batches in per_rank}) == 1
        assert all(len(batch) == 2 for batches in per_rank for batch in batches)
        in_order = itertools.chain.from_iterable(zip(*per_rank, strict=True))
        return [row for batch in in_order for row in rows_of(batch)]

    keys = [row[0][-4:] for row in rows() if row[0]]
    assert keys == [f"{row:04d}" for row in range(11) if row != 4]
    assert rows() == rows()
