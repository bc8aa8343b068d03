"""Values out of files that anybody may have written: what is not of its kind reads as absent."""

from __future__ import annotations

import math
from typing import Any

# Longer texts are cut: a page shows what was said, not all of it.
MAX_TEXT = 400
# Rounding may leave a share this far outside 0..1.
SHARE_SLACK = 1e-6

Interval = tuple[float, float]


def mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def records(value: object) -> list[dict[str, Any]]:
    """The mappings of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def count(value: object) -> int | None:
    """A whole number of things."""
    found = number(value)
    return int(found) if found is not None and found >= 0 and found == int(found) else None


def share(value: object) -> float | None:
    """A number of 0..1."""
    found = number(value)
    if found is None or not -SHARE_SLACK <= found <= 1 + SHARE_SLACK:
        return None
    return min(1.0, max(0.0, found))


def interval(value: object) -> Interval | None:
    """[low, high], both shares."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = share(value[0]), share(value[1])
    return (low, high) if low is not None and high is not None and low <= high else None


def text(value: object, longest: int = MAX_TEXT) -> str:
    """What a person reads of a plain value; empty for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    try:
        plain = str(value)
    except ValueError:  # Python writes no whole number of more than 4300 digits
        return ""
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def texts(value: object) -> list[str]:
    """The readable texts of a list."""
    return [text(item) for item in value if text(item)] if isinstance(value, list) else []


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def percent_interval(value: Interval | None) -> str:
    """ "58.1 to 63.0 %"; empty where it was not measured."""
    return f"{100 * value[0]:.1f} to {100 * value[1]:.1f} %" if value else ""
