"""Whether held-out data was trained on, as an evaluation says it beside its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlpretrain.build.data import open_sources
from vlpretrain.build.model import absolute_spec, read_training
from vlpretrain.config.schema import RunConfig
from vlpretrain.data.fingerprint import find_overlap, join_fingerprints, load_fingerprints
from vlpretrain.data.shards import Source
from vlpretrain.errors import UserError

# Training samples up to which the look is made at an evaluation: about five minutes of decoding the
# first time. `data_tools overlap` has no limit, and what it made of a shard is used here.
MOST_SAMPLES = 60_000


def overlap_of(config: RunConfig) -> dict[str, Any] | None:
    """The record that evaluators keep; None where the configuration does without.

    The training data is that of this run and, where it starts from an export, of all runs before.
    """
    if not config.evaluation.overlap:
        return None
    specs = training_specs(config)
    sources, missing = _opened(config, specs)
    if missing:
        return _unchecked(specs, f"training data that is not here: {', '.join(missing)}")
    if not sources:
        return _unchecked(specs, "nothing is known of the training data")
    samples = sum(int(source.sizes.sum()) for source in sources)
    if samples > MOST_SAMPLES and not all(_looked_at(source) for source in sources):
        command = f"python -m data_tools overlap {specs[0]} {config.data.val[0]}"
        return _unchecked(specs, f"{samples:,} training samples are too many here: {command}")
    cache = config.data.cache_dir
    trained = join_fingerprints([load_fingerprints(source, cache) for source in sources])
    held_out = open_sources(config.data.val, config.data)
    judged = join_fingerprints([load_fingerprints(source, cache) for source in held_out])
    return find_overlap(trained, judged).record(specs)


def training_specs(config: RunConfig) -> list[str]:
    before = read_training(config.init) if config.init else None
    own = [absolute_spec(spec) for spec in config.data.train]
    return list(dict.fromkeys([*(before.sources if before else ()), *own]))


def _opened(config: RunConfig, specs: list[str]) -> tuple[list[Source], list[str]]:
    """The sources that can be opened, and the names of the others."""
    sources, missing = [], []
    for spec in specs:
        try:
            sources += open_sources([spec], config.data)
        except UserError:
            missing.append(spec)
    return sources, missing


def _looked_at(source: Source) -> bool:
    return all(Path(f"{shard.path}.fpr").is_file() for shard in source.shards)


def _unchecked(specs: list[str], note: str) -> dict[str, Any]:
    return {"checked": False, "sources": specs, "note": note}
