"""Batch norm in half precision with statistics in full precision."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn


class FloatBatchNorm2d(nn.BatchNorm2d):
    """Scale and shift by the running statistics' precision.

    DeepSpeed turns parameters into bf16 and leaves buffers in float32, where running means belong;
    torch's kernels take statistics and parameters of one precision alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.training:
            self.num_batches_tracked.add_(1)
        dtype = self.running_mean.dtype
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight.to(dtype),
            self.bias.to(dtype),
            self.training,
            self.momentum,
            self.eps,
        )


class FloatBatchNormAct2d(BatchNormAct2d):
    """The same with the activation behind it, as timm's EfficientNet and its kin have it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(FloatBatchNorm2d.forward(self, x)))  # type: ignore[arg-type]


def keep_float_statistics(network: nn.Module) -> None:
    """Makes the network's plain batch norms such ones; they keep no state that others don't."""
    for module in network.modules():
        if type(module) in _IN_FLOAT and _is_usual(module):
            module.__class__ = _IN_FLOAT[type(module)]


_IN_FLOAT: dict[type[nn.Module], type[nn.BatchNorm2d]] = {
    nn.BatchNorm2d: FloatBatchNorm2d,
    BatchNormAct2d: FloatBatchNormAct2d,
}


def _is_usual(norm: Any) -> bool:
    return norm.track_running_stats and norm.affine and norm.momentum is not None
