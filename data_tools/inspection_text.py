"""The report of `inspect`, for reading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHARDS_SHOWN, KINDS_SHOWN = 20, 12


def report_lines(spec: str, record: Mapping[str, Any]) -> list[str]:
    """Lines for the screen, from what inspect.json holds."""
    pictures, captions, samples = record["pictures"], record["captions"], record["samples"]
    formats = ", ".join(f"{count:,} {name}" for name, count in pictures["formats"].items())
    lines = [
        *_shard_lines(spec, record["shards"]),
        f"pictures    {pictures['count']:,}  ({formats or 'none'})",
        _spread_line("width", pictures["width"]),
        _spread_line("height", pictures["height"]),
        _spread_line("bytes", pictures["bytes"]),
        f"captions    {captions['count']:,}",
        _spread_line("words", captions["words"]),
        _spread_line("a picture", captions["per_picture"]),
        f"duplicates  {pictures['duplicates']:,} pictures, {captions['duplicates']:,} captions",
    ]
    for name in ("questions", "labels"):
        if record[name]:
            lines.append(_kinds_line(name, record[name]))
    for name, what in (
        ("picture_only", "samples without a caption, question or label"),
        ("text_only", "samples without a picture"),
        ("unreadable", "samples whose text can't be read: see validate"),
    ):
        if samples[name]:
            lines.append(f"note        {samples[name]:,} {what}")
    return lines


def _kinds_line(name: str, counted: Mapping[str, int]) -> str:
    shown = [f"{count:,} {kind}" for kind, count in list(counted.items())[:KINDS_SHOWN]]
    more = [f"and {len(counted) - KINDS_SHOWN:,} more"] if len(counted) > KINDS_SHOWN else []
    return f"{name:<12}{sum(counted.values()):,}  ({', '.join(shown + more)})"


def _shard_lines(spec: str, shards: list[dict[str, Any]]) -> list[str]:
    samples = sum(shard["samples"] for shard in shards)
    size = sum(shard["bytes"] for shard in shards)
    lines = [f"{spec}: {len(shards):,} shards, {samples:,} samples, {_megabytes(size)}"]
    for shard in shards[:SHARDS_SHOWN]:
        problems = f", {shard['problems']} problems: see validate" if shard["problems"] else ""
        counted = f"{shard['samples']:,} samples, {_megabytes(shard['bytes'])}{problems}"
        lines.append(f"  {Path(shard['path']).name}  {counted}")
    if len(shards) > SHARDS_SHOWN:
        lines.append(f"  and {len(shards) - SHARDS_SHOWN:,} more")
    return lines


def _spread_line(name: str, spread: Mapping[str, float]) -> str:
    if not spread:
        return f"  {name:<10}-"
    shown = "   ".join(f"{what} {value:,.10g}" for what, value in spread.items())
    return f"  {name:<10}{shown}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
