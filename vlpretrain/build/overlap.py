"""Whether held-out data was trained on."""

from __future__ import annotations

from typing import Any

from vlpretrain.config.schema import RunConfig


def find_overlap(config: RunConfig) -> dict[str, Any]:
    return {"checked": False}
