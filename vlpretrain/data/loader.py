"""Global batches by step number, whatever the ranks, workers and micro-batches.

A global batch is the slice [step * GB, (step + 1) * GB) of the sample order. Micro-step m takes its
m-th chunk of micro_batch * world_size positions, rank r the r-th micro_batch rows of that chunk.
Each worker prepares whole micro-batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vlpretrain.data.keyed import generator
from vlpretrain.data.sample import SampleError, parse_sample
from vlpretrain.errors import UserError
from vlpretrain.types import MicroBatch, Position, RawSample, Sample, Skip, StepData

# Substitutes that are tried in the place of one unusable sample before the run stops.
MAX_SUBSTITUTES = 20

# The share of skipped samples means something from here on (or from an epoch, if that is shorter).
MIN_SEEN = 1000

# Reasons that a message quotes.
NUM_REASONS = 5


class Order(Protocol):
    """The sample order, a pure function of the position (data.order.SampleOrder)."""

    @property
    def epoch_length(self) -> int: ...

    def locate(self, first: int, last: int) -> Sequence[Position]:
        """Positions first .. last - 1, counted on over the epochs."""


class Reader(Protocol):
    """Bytes by position (data.reader.ShardReader)."""

    def read(self, position: Position) -> RawSample: ...


@dataclass(frozen=True)
class LoaderSettings:
    """How global batches are cut, and how much is prepared ahead."""

    global_batch: int
    micro_batch: int = 0  # samples; 0: global_batch / world_size
    workers: int = 0  # processes; 0: the caller's own
    prefetch: int = 4  # micro-batches a worker
    max_skipped: float = 0.05  # share of the samples seen


class Recipe(Protocol):
    """How samples become a micro-batch of one task. `Any` is the recipe's own kind of row."""

    @property
    def seed(self) -> int: ...

    def row(self, sample: Sample, epoch: int, source: int) -> Any:
        """One sample, prepared.

        Raises:
            SampleError: it can't be used.
        """

    def blank(self) -> Any:
        """A row that no loss reads."""

    def collate(self, rows: Sequence[Any]) -> MicroBatch: ...

    def still(self) -> Recipe:
        """The same without anything random, for evaluation."""


class Prepared(NamedTuple):
    """A micro-batch as a worker hands it over, or the mistake of the user that it met."""

    batch: MicroBatch | None
    skips: tuple[Skip, ...]
    error: UserError | None


class BatchMaker:
    """Positions of the order to a micro-batch: read, parse, and what the recipe does."""

    def __init__(self, order: Order, reader: Reader, recipe: Recipe) -> None:
        self.order = order
        self.reader = reader
        self.recipe = recipe

    def make(self, first: int, last: int) -> tuple[MicroBatch, tuple[Skip, ...]]:
        """The batch of positions first .. last - 1; unusable samples are replaced.

        Raises:
            UserError: a position's substitutes are all unusable too.
        """
        skips: list[Skip] = []
        places = enumerate(self.order.locate(first, last), start=first)
        rows = [self._usable_row(place, position, skips) for place, position in places]
        return self.recipe.collate(rows), tuple(skips)

    def make_as_it_is(self, first: int, last: int, size: int) -> MicroBatch:
        """The same without substitutes: unusable samples, and places up to `size`, are blank."""
        rows = [self._row(position) for position in self.order.locate(first, last)]
        kept = [self.recipe.blank() if isinstance(row, Skip) else row for row in rows]
        kept += [self.recipe.blank()] * (size - len(kept))
        return self.recipe.collate(kept)

    def _usable_row(self, place: int, position: Position, skips: list[Skip]) -> Any:
        first_skip = len(skips)
        for attempt in range(MAX_SUBSTITUTES + 1):
            row = self._row(position)
            if not isinstance(row, Skip):
                return row
            skips.append(row)
            position = self._substitute(place, attempt)
        raise UserError(
            f"no usable sample: one and its {MAX_SUBSTITUTES} substitutes were all skipped\n"
            + _quote(skips[first_skip:]),
            where="data.train",
            fix="run `python -m data_tools validate` on the shards",
        )

    def _row(self, position: Position) -> Any:
        """The recipe's row, or a Skip."""
        raw = self.reader.read(position)
        try:
            return self.recipe.row(parse_sample(raw), position.epoch, position.source)
        except SampleError as error:
            return Skip(raw.shard, raw.key, str(error))

    def _substitute(self, place: int, attempt: int) -> Position:
        """A sample of the same epoch that depends on (seed, position, attempt) alone."""
        length = self.order.epoch_length
        epoch = place // length
        random = generator(self.recipe.seed, epoch, str(place), f"substitute {attempt}")
        chosen = epoch * length + int(random.integers(length))
        return self.order.locate(chosen, chosen + 1)[0]


class Loader:
    """One rank's share of each global batch; implements types.TrainLoader."""

    def __init__(
        self, maker: BatchMaker, settings: LoaderSettings, rank: int = 0, world_size: int = 1
    ) -> None:
        self.maker = maker
        self.settings = settings
        self.micro_batch = settings.micro_batch or max(1, settings.global_batch // world_size)
        self.micro_steps = num_micro_steps(settings.global_batch, self.micro_batch, world_size)
        self._plan = _Plan(
            settings.global_batch, self.micro_batch, self.micro_steps, rank, world_size
        )
        self._skipping = _SkipShare(settings.max_skipped, min(MIN_SEEN, self.samples_per_epoch))
        self._batches = _data_loader(_MicroBatches(maker), self._plan, settings)

    @property
    def samples_per_epoch(self) -> int:
        return self.maker.order.epoch_length

    def steps(self, first: int, last: int, skipped: int = 0) -> Iterator[StepData]:
        """This rank's share of steps first .. last - 1.

        Args:
            skipped: samples of the steps before `first` that could not be used, over all ranks;
                this rank counts on from its share of them.

        Raises:
            UserError: too large a share of the samples is unusable.
        """
        self._plan.steps = range(first, last)
        self._skipping.seen = first * self.micro_batch * self.micro_steps
        self._skipping.skipped = skipped // self._plan.world_size
        prepared = iter(self._batches)
        for _ in range(first, last):
            yield self._step([next(prepared) for _ in range(self.micro_steps)])

    def _step(self, prepared: list[Prepared]) -> StepData:
        batches = []
        for part in prepared:
            if part.error is not None:
                # Anew: raising the one that `part` holds makes a cycle that keeps workers alive.
                raise UserError(part.error.problem, where=part.error.where, fix=part.error.fix)
            assert part.batch is not None
            batches.append(part.batch)
        skips = tuple(skip for part in prepared for skip in part.skips)
        self._skipping.add(self.micro_batch * self.micro_steps, skips)
        return StepData(tuple(batches), skips)


def num_micro_steps(global_batch: int, micro_batch: int, world_size: int) -> int:
    """Micro-steps of a step: global_batch / (micro_batch * world_size), a whole number.

    Raises:
        UserError: it isn't whole; names the nearest global batches that are.
    """
    chunk = micro_batch * world_size
    if global_batch > 0 and global_batch % chunk == 0:
        return global_batch // chunk
    below, above = global_batch // chunk * chunk, -(-global_batch // chunk) * chunk
    near = f"{below} or {above}" if below else f"{max(above, chunk)}"
    raise UserError(
        f"a global batch of {global_batch} can't be divided into micro-batches of {micro_batch} "
        f"on {world_size} rank{'s' if world_size > 1 else ''}",
        where="train.global_batch",
        fix=f"set it to {near}" + _other_micro_batch(global_batch, micro_batch, world_size),
    )


def evaluation_batches(
    maker: BatchMaker, *, samples: int, batch: int, rank: int = 0, world_size: int = 1
) -> Iterator[Any]:
    """This rank's batches of the first `samples` samples (0: all), alike every time.

    Centre crop, first caption, one set of masks. `maker.order` must not shuffle. Every rank gets
    equally many batches of equal size: blank rows (neither picture nor text) fill the last ones
    up, and stand for unusable samples.
    """
    still_maker = BatchMaker(maker.order, maker.reader, maker.recipe.still())
    total = min(samples or maker.order.epoch_length, maker.order.epoch_length)
    for chunk in range(0, total, batch * world_size):
        first = min(chunk + rank * batch, total)
        yield still_maker.make_as_it_is(first, min(first + batch, total), batch)


class _Plan(Sampler[tuple[int, int]]):
    """The position ranges of this rank's micro-batches; `steps` is set before each iteration."""

    def __init__(
        self, global_batch: int, micro_batch: int, micro_steps: int, rank: int, world_size: int
    ) -> None:
        self.steps = range(0)
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.world_size = world_size
        self.chunks = range(0, micro_steps * micro_batch * world_size, micro_batch * world_size)
        self.offset = rank * micro_batch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for step in self.steps:
            for chunk in self.chunks:
                first = step * self.global_batch + chunk + self.offset
                yield first, first + self.micro_batch


class _MicroBatches(Dataset[Prepared]):
    """Lets DataLoader's workers prepare whole micro-batches."""

    def __init__(self, maker: BatchMaker) -> None:
        self.maker = maker

    def __getitem__(self, span: tuple[int, int]) -> Prepared:
        try:
            batch, skips = self.maker.make(*span)
        except UserError as error:
            # As a value: DataLoader would wrap an exception's message in a traceback.
            return Prepared(None, (), error)
        return Prepared(batch, skips, None)


class _SkipShare:
    """Stops the run once too large a share of the samples seen was unusable."""

    def __init__(self, limit: float, min_seen: int) -> None:
        self.limit = limit
        self.min_seen = min_seen
        self.seen = 0
        self.skipped = 0
        self.first: list[Skip] = []

    def add(self, seen: int, skips: Sequence[Skip]) -> None:
        self.seen += seen
        self.skipped += len(skips)
        self.first += skips[: NUM_REASONS - len(self.first)]
        if self.seen < self.min_seen or self.skipped <= self.limit * self.seen:
            return
        raise UserError(
            f"{self.skipped} of {self.seen} samples could not be used, more than the share of "
            f"{self.limit:g}\n{_quote(self.first)}",
            where="data.max_skipped",
            fix="run `python -m data_tools validate` on the shards, or allow a larger share",
        )


def _data_loader(
    dataset: _MicroBatches, plan: _Plan, settings: LoaderSettings
) -> DataLoader[Prepared]:
    if settings.workers:
        # The Rust tokenizer's threads don't survive the fork; workers are the parallelism.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=plan,
        num_workers=settings.workers,
        prefetch_factor=settings.prefetch if settings.workers else None,
        persistent_workers=settings.workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else DataLoader draws from the run's own random state
    )


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)


def _other_micro_batch(global_batch: int, micro_batch: int, world_size: int) -> str:
    """Advice on the micro-batch, where the ranks divide the global batch."""
    if global_batch <= 0 or global_batch % world_size:
        return ""
    share = global_batch // world_size
    fits = max(size for size in range(1, min(micro_batch, share) + 1) if share % size == 0)
    return f", or train.micro_batch to {fits}"


def _quote(skips: Sequence[Skip]) -> str:
    lines = [f"  {skip.shard}/{skip.key}: {skip.reason}" for skip in skips[:NUM_REASONS]]
    return "\n".join(lines)
