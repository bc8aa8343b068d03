"""Vision-language pretraining on webdataset shards with DeepSpeed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlpretrain.models.vlmodel import VLModel

__version__ = "0.1.0"
__all__ = ["VLModel", "__version__"]


def __getattr__(name: str) -> Any:
    """Loads VLModel, and with it torch, when it is first asked for."""
    if name == "VLModel":
        from vlpretrain.models.vlmodel import VLModel

        return VLModel
    raise AttributeError(f"module 'vlpretrain' has no attribute {name!r}")
