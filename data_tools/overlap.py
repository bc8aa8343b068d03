"""How much of one data set is in another: pictures, captions, and questions about them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from data_tools.parallel import ordered_map
from data_tools.progress import tracked
from data_tools.reading import open_shards
from vlpretrain.data.fingerprint import (
    FingerprintSet,
    Match,
    Overlap,
    find_overlap,
    fingerprint_shard,
    join_fingerprints,
)
from vlpretrain.data.near_pictures import MOST_BITS, MOST_LEVELS
from vlpretrain.data.shards import Source
from vlpretrain.data.sidecar import write_atomically

NAMED = 20  # pairs of a kind on the screen; the JSON has all


@dataclass(frozen=True, slots=True)
class _ShardJob:
    spec: str
    shard: int


def report_overlap(training: str, evaluation: str, out: Path | None, workers: int = 1) -> str:
    """Lines for the screen; with `out`, every pair in a JSON file as well."""
    a, b = read_fingerprints(training, workers), read_fingerprints(evaluation, workers)
    overlap = find_overlap(a, b)
    lines = [_set_line("A", training, a), _set_line("B", evaluation, b), *_count_lines(overlap)]
    for kind in ("pictures", "captions", "questions"):
        lines += _pair_lines(kind, getattr(overlap, kind))
    if out is not None:
        record = _record(training, evaluation, overlap)
        write_atomically(out, json.dumps(record, indent=1, ensure_ascii=False).encode())
        lines.append(f"written: {out}")
    return "\n".join(lines)


def read_fingerprints(spec: str, workers: int = 1) -> FingerprintSet:
    """Fingerprints of all that a spec names; what is not kept beside the shards is made."""
    jobs = [_ShardJob(spec, shard) for shard in range(len(_opened(spec).shards))]
    made = ordered_map(_fingerprint, jobs, workers)
    return join_fingerprints(list(tracked(made, "shards fingerprinted", len(jobs))))


def _fingerprint(job: _ShardJob) -> FingerprintSet:
    return fingerprint_shard(_opened(job.spec), job.shard)


@lru_cache(maxsize=2)
def _opened(spec: str) -> Source:
    return open_shards(spec)


def _set_line(name: str, spec: str, found: FingerprintSet) -> str:
    counts = f"{len(found.pictures):,} pictures, {len(found.caption_C):,} captions"
    return f"{name}  {spec}: {len(found):,} samples, {counts}, {len(found.question_Q):,} questions"


def _count_lines(overlap: Overlap) -> list[str]:
    lines = [
        _count_line("pictures", overlap.pictures, overlap.num_pictures, "are in A"),
        _count_line("captions", overlap.captions, overlap.num_captions, "are in A, word for word"),
        _count_line(
            "questions",
            overlap.questions,
            overlap.num_questions,
            "are asked in A of the same picture",
        ),
    ]
    if overlap.unsure_pictures:
        flat = f"{overlap.unsure_pictures:,} pictures of B are flat or nearly"
        lines.append(f"note       {flat}: only equal pixels count as the same")
    return lines


def _count_line(kind: str, found: Sequence[Match], of: int, what: str) -> str:
    if not of:
        return f"{kind:<11}none in B"
    return f"{kind:<11}{len(found):,} of {of:,} of B ({len(found) / of:.2%}) {what}"


def _pair_lines(kind: str, found: Sequence[Match]) -> list[str]:
    if not found:
        return []
    lines = [f"{kind} of B, and theirs in A:"]
    for match in found[:NAMED]:
        apart = f"  ({match.distance} of 64 bits differ)" if match.distance else ""
        lines.append(f"  {_short(match.b)} = {_short(match.a)}{apart}")
    if len(found) > NAMED:
        lines.append(f"  and {len(found) - NAMED:,} more")
    return lines


def _short(name: str) -> str:
    """Folder, shard and key."""
    return "/".join(Path(name).parts[-3:])


def _record(training: str, evaluation: str, overlap: Overlap) -> dict[str, Any]:
    kinds = ("pictures", "captions", "questions")
    pairs = {kind: [asdict(match) for match in getattr(overlap, kind)] for kind in kinds}
    counts = {
        "samples": overlap.num_samples,
        "pictures": overlap.num_pictures,
        "captions": overlap.num_captions,
        "questions": overlap.num_questions,
        "unsure_pictures": overlap.unsure_pictures,
    }
    rule = {"most_bits_apart": MOST_BITS, "most_grey_levels_apart": MOST_LEVELS}
    summary = overlap.record([training])
    return {
        "a": training,
        "b": evaluation,
        "rule": rule,
        "of_b": counts,
        "overlap": summary,
    } | pairs
