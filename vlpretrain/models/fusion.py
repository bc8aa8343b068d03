"""Reading texts together with pictures.

Shapes: R rows of a tower's output, N image tokens, T text positions, P pairs, K positions read,
D width of the fusion, S flat rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlpretrain.errors import UserError
from vlpretrain.models.fusion_cross import CrossLayer, plan
from vlpretrain.models.fusion_merged import JointInput, MergedLayer, joint_valid
from vlpretrain.models.layers import Attention, init_weights
from vlpretrain.models.layout import FusionPairs, Slots, lay_out
from vlpretrain.models.spec import FusionSpec

__all__ = ["FUSIONS", "Fusion", "FusionPairs"]


class Fusion(nn.Module):
    """The cross-modal module: both towers' states in, states of the read positions out."""

    def __init__(self, spec: FusionSpec, image_width: int, text_width: int) -> None:
        """Towers whose width differs from the fusion's are projected to it."""
        super().__init__()
        _check(spec)
        self.spec = spec
        self.width = spec.width
        self.image_in = _entry(image_width, spec.width)
        self.image_norm = nn.LayerNorm(spec.width)
        self.text_in = _entry(text_width, spec.width)
        self.body = FUSIONS[spec.kind](spec)
        self.norm = nn.LayerNorm(spec.width)
        self.apply(init_weights)

    def forward(
        self, image_RND: Tensor, text_RTD: Tensor, text_valid_RT: Tensor, pairs: FusionPairs
    ) -> Tensor:
        """Final states [K, D] of the positions `pairs.read_index_K`, in that order.

        A state depends on its own pair alone: neither on padding nor on the rest of the batch.

        Args:
            image_RND: image tokens of every picture, prefix tokens included.
            text_RTD: token states of every text.
            text_valid_RT: True where a real token stands.
        """
        image_RND = self.image_norm(self.image_in(image_RND))
        state_KD = self.body(image_RND, self.text_in(text_RTD), text_valid_RT, pairs)
        return self.norm(state_KD)

    @contextmanager
    def looking(self, layer: int) -> Iterator[list[Tensor]]:
        """Keeps how much a layer (0: the first) looks at what; for explanations, not for training.

        Within, the list takes the attention weights [G, H, Q, N] of every call, part of its graph.
        When one text is read with G pictures, without padding and at all its positions, group g is
        picture g; its first queries are the text's tokens in order, its last keys the image tokens.

        Raises:
            UserError: no such layer, or a fusion whose words never look at the picture.
        """
        if not 0 <= layer < self.spec.depth:
            raise UserError(
                f"no layer {layer} in a fusion of {self.spec.depth}",
                where="layer",
                fix=f"0 to {self.spec.depth - 1}",
            )
        # Compiled layers would have to be compiled anew.
        eagerly = torch.compiler.set_stance("force_eager")
        with eagerly, self.body.look(layer).keeping_weights() as kept:
            yield kept

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute each layer in the backward pass instead of keeping its activations."""
        self.body.checkpointing = enabled

    def compile_blocks(self) -> None:
        """torch.compile each layer, in place; names of weights stay."""
        for layer in self.body.layers:
            layer.compile(dynamic=True)


class CrossFusion(nn.Module):
    """Words look at the picture, whose keys and values are projected once a picture and layer."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.checkpointing = False
        self.layers = nn.ModuleList(
            CrossLayer(spec.width, spec.heads, spec.dropout) for _ in range(spec.depth)
        )

    def forward(
        self, image_RND: Tensor, text_RTD: Tensor, text_valid_RT: Tensor, pairs: FusionPairs
    ) -> Tensor:
        layout = lay_out(text_valid_RT, pairs, len(image_RND))
        row_SD = layout.text.unpad(text_RTD)
        for layer, stage in zip(self.layers, plan(layout, len(self.layers)), strict=True):
            row_SD = _run(self, layer, row_SD, image_RND, stage)
        return row_SD

    def look(self, layer: int) -> Attention:
        """The attention by which a layer looks at the picture."""
        return cast(Attention, self.layers[layer].picture)


class MergedFusion(nn.Module):
    """One self-attention over the words and patches of each pair, in every layer."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.checkpointing = False
        self.joint = JointInput(spec.width)
        self.layers = nn.ModuleList(
            MergedLayer(spec.width, spec.heads, spec.dropout) for _ in range(spec.depth)
        )

    def forward(
        self, image_RND: Tensor, text_RTD: Tensor, text_valid_RT: Tensor, pairs: FusionPairs
    ) -> Tensor:
        joint_PJD = self.joint(image_RND, text_RTD, pairs)
        valid_PJ = joint_valid(text_valid_RT, pairs, image_RND.shape[1])
        everywhere = Slots(None, *valid_PJ.shape)
        length = text_RTD.shape[1]
        pair_K, column_K = pairs.read_index_K // length, pairs.read_index_K % length
        row_SD = joint_PJD.flatten(0, 1)
        for layer in self.layers[:-1]:
            row_SD = _run(self, layer, row_SD, everywhere, valid_PJ, None)
        read_K = pair_K * valid_PJ.shape[1] + column_K
        return _run(self, self.layers[-1], row_SD, everywhere, valid_PJ, read_K)

    def look(self, layer: int) -> Attention:
        """The attention by which a layer looks at the picture, and at the words."""
        return cast(Attention, self.layers[layer].attention)


class ConcatFusion(nn.Module):
    """The plain baseline: the text's first state beside the picture's mean state through an MLP,
    added to each state that is read. Words never look at patches."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.checkpointing = False
        sizes = [2 * spec.width] + [spec.width] * spec.depth
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(inner, outer), nn.GELU(), nn.Dropout(spec.dropout))
            for inner, outer in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def forward(
        self, image_RND: Tensor, text_RTD: Tensor, text_valid_RT: Tensor, pairs: FusionPairs
    ) -> Tensor:
        text_PD = text_RTD[:, 0][pairs.text_row_P]
        image_PD = image_RND.mean(dim=1)[pairs.image_row_P]
        joint_PD = torch.cat([text_PD, image_PD], dim=-1)
        for layer in self.layers:
            joint_PD = _run(self, layer, joint_PD)
        length = text_RTD.shape[1]
        pair_K, column_K = pairs.read_index_K // length, pairs.read_index_K % length
        return text_RTD[pairs.text_row_P[pair_K], column_K] + joint_PD[pair_K]

    def look(self, layer: int) -> Attention:
        """Refused: there is none."""
        raise UserError(
            "words of a concat fusion never look at the picture: there is nothing to show",
            where="fusion.kind",
            fix="a model whose fusion is cross or merged",
        )


FUSIONS: dict[str, type[CrossFusion] | type[MergedFusion] | type[ConcatFusion]] = {
    "cross": CrossFusion,
    "merged": MergedFusion,
    "concat": ConcatFusion,
}


def _run(body: Any, layer: Callable[..., Tensor], *inputs: object) -> Tensor:
    if body.checkpointing and body.training:
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


def _entry(tower_width: int, width: int) -> nn.Module:
    return nn.Identity() if tower_width == width else nn.Linear(tower_width, width)


def _check(spec: FusionSpec) -> None:
    if spec.kind not in FUSIONS:
        raise UserError(
            f"no fusion is called {spec.kind!r}",
            where="fusion.kind",
            fix=f"one of {', '.join(FUSIONS)}",
        )
    if spec.depth < 1:
        raise UserError(
            f"{spec.depth} layers of fusion", where="fusion.depth", fix="at least 1 layer"
        )
    if spec.width % spec.heads:
        raise UserError(
            f"{spec.heads} heads do not divide the width {spec.width}",
            where="fusion.heads",
            fix="a number of heads that divides fusion.width",
        )
