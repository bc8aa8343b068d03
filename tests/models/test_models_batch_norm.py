"""Batch norm whose parameters are bf16 and whose statistics are not, as DeepSpeed has them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from vlpretrain.models.batch_norm import FloatBatchNorm2d, keep_float_statistics
from vlpretrain.models.spec import VisionSpec
from vlpretrain.models.vision import VisionTower


def halve_parameters(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def both() -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(4)
    nn.init.normal_(plain.weight)
    ours = nn.Sequential(nn.BatchNorm2d(4))
    ours[0].load_state_dict(plain.state_dict())
    keep_float_statistics(ours)
    assert isinstance(ours[0], FloatBatchNorm2d)
    return plain, ours[0]


def test_in_full_precision_nothing_changes() -> None:
    plain, ours = both()
    for step in range(3):
        picture = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(step)) + step
        assert torch.equal(plain(picture), ours(picture))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    assert torch.equal(plain.eval()(picture), ours.eval()(picture))


def test_with_an_activation_behind_it_nothing_changes() -> None:
    torch.manual_seed(0)
    plain = BatchNormAct2d(4, act_layer=nn.SiLU)
    ours = nn.Sequential(deepcopy(plain))
    keep_float_statistics(ours)
    picture = torch.randn(6, 4, 5, 5)
    assert torch.equal(plain(picture), ours[0](picture))
    assert torch.equal(plain.eval()(picture), ours.eval()(picture))


def test_statistics_stay_exact_where_parameters_are_halved() -> None:
    plain, ours = both()
    halve_parameters(ours)
    picture = (3 + torch.randn(6, 4, 5, 5)).to(torch.bfloat16)
    for _ in range(50):
        plain(picture.float())
        output = ours(picture)
    assert output.dtype == torch.bfloat16
    assert ours.running_mean.dtype == torch.float32
    torch.testing.assert_close(ours.running_mean, plain.running_mean, rtol=1e-5, atol=1e-6)
    output.float().sum().backward()
    assert ours.weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("buffers", [torch.float32, torch.bfloat16])
def test_a_cnn_runs_in_half_precision(name: str, buffers: torch.dtype) -> None:
    tower = VisionTower(VisionSpec(name, 64, 32))
    halve_parameters(tower)
    for buffer in tower.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.to(buffers)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    for module in (tower.train(), tower.eval()):
        assert module(pixels).pooled_BD.isfinite().all()
