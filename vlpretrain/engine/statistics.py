"""Running statistics of batch norms, which every rank keeps of its own samples."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from vlpretrain.distributed import all_mean


def agree_on_statistics(module: nn.Module) -> None:
    """Gives every rank the mean of the ranks' running means and variances.

    Evaluation then does not depend on which rank has which samples, and what is saved has seen
    all of them. Training reads no running statistics. All ranks call.
    """
    for norm in module.modules():
        if isinstance(norm, _NormBase) and norm.running_mean is not None:
            assert norm.running_var is not None
            norm.running_mean.copy_(all_mean(norm.running_mean))
            norm.running_var.copy_(all_mean(norm.running_var))
