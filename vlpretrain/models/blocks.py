"""The repeated blocks of networks that others wrote."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

# The names under which timm, transformers and open_clip keep their blocks or stages.
_NAMES = ("blocks", "layers", "stages", "layer", "resblocks", "block", "h")


def compile_blocks(network: nn.Module) -> None:
    """torch.compile each outermost block in place: quicker to compile than the whole, and the
    names of weights stay."""
    for block in _blocks(network):
        block.compile(dynamic=True)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for name, child in network.named_children():
        if name in _NAMES and isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield from child
        else:
            yield from _blocks(child)
