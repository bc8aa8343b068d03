"""Weights from files: what is read, what is refused, what is reported."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vlpretrain.errors import UserError
from vlpretrain.models.weights import load_weights, read_weights


class Opens:
    """A pickle that would run code."""

    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",)])
def test_torch_files_are_read_nested_or_not(tmp_path, nest):
    content = {"weight": torch.ones(2), "epoch": 3}
    for name in nest:
        content = {name: content, "optimizer": {}}
    torch.save(content, tmp_path / "w.pth")
    state = read_weights(tmp_path / "w.pth")
    assert list(state) == ["weight"]


def test_a_folder_s_weights_are_found(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path)["weight"].tolist() == [1, 1]


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x04garbage"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_files_that_are_no_weights_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_weights(tmp_path / name)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"weight": Opens()}, tmp_path / "w.pth")
    with pytest.raises(UserError):
        read_weights(tmp_path / "w.pth")
    assert "code ran" not in capsys.readouterr().out


def test_an_empty_folder_and_a_missing_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no weights"):
        read_weights(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_weights(tmp_path / "gone.pth")


def test_the_report_names_what_did_not_load():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {"0.weight": torch.ones(3, 2), "1.weight": torch.ones(1, 9), "x": torch.ones(1)}
    report = load_weights(module, state, "w.pth")
    assert report.loaded == 1
    assert report.missing == ("0.bias", "1.bias")
    assert report.mismatched == ("1.weight",)
    assert report.unexpected == ("x",)
    assert module[0].weight.eq(1).all()
    for part in ("w.pth", "1 tensors", "0.bias", "1.weight", "x"):
        assert part in str(report)


def test_weights_that_fit_nowhere_are_refused():
    with pytest.raises(UserError, match="none of the 1 tensors fits"):
        load_weights(nn.Linear(2, 2), {"other": torch.ones(2)}, "w.pth")
