"""launch.sh: what it installs and when, seen through a Python that only notes its calls."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Notes every call; installs nothing; finds the dependencies missing; asks the real Python the rest.
STUB = """#!/usr/bin/env bash
echo "$*" >>{log}
case "$1 $2 $3" in
    "-m pip --version") exit 0 ;;
    "-m pip install") exit "${{PIP_CODE:-0}}" ;;
    "- "*) exit 1 ;;
    "-c "*) exec {python} "$@" ;;
esac
"""


@dataclass(frozen=True)
class Checkout:
    """A copy of launch.sh with an environment beside it."""

    folder: Path
    environment: Path
    log: Path

    def launch(self, *arguments: str, pip_code: int = 0) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "VIRTUAL_ENV": str(self.environment), "PIP_CODE": str(pip_code)}
        return subprocess.run(
            [str(self.folder / "launch.sh"), *arguments],
            env=env,
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """The calls since the last time."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def installs(self) -> int:
        return sum(call.startswith("-m pip install") for call in self.calls())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder, environment = tmp_path / "a checkout", tmp_path / "an environment"
    (environment / "bin").mkdir(parents=True)
    folder.mkdir()
    for name in ("launch.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    stub = environment / "bin" / "python"
    stub.write_text(STUB.format(log=f"'{tmp_path / 'log'}'", python=sys.executable))
    stub.chmod(0o755)
    return Checkout(folder, environment, tmp_path / "log")


def test_the_first_command_installs_and_the_second_does_not(checkout: Checkout) -> None:
    assert checkout.launch("config", "run.yaml").returncode == 0
    calls = checkout.calls()
    assert sum(call.startswith("-m pip install") for call in calls) == 1
    assert calls[-1] == "-m vlpretrain.cli.main config run.yaml"
    assert checkout.launch("pretrain", "run.yaml", "--optim.lr", "3").returncode == 0
    assert checkout.calls()[-1] == "-m vlpretrain.cli.launch pretrain run.yaml --optim.lr 3"
    assert checkout.launch("explain", "a.jpg", "two dogs").returncode == 0
    assert checkout.calls()[-1] == "-m vlpretrain.cli.main explain a.jpg two dogs"
    checkout.launch("config")
    assert checkout.installs() == 0


def test_a_failed_installation_is_done_again(checkout: Checkout) -> None:
    failed = checkout.launch("config", pip_code=1)
    assert failed.returncode == 2
    assert "the installation failed" in failed.stderr
    assert checkout.installs() == 1
    assert checkout.launch("config").returncode == 0
    assert checkout.installs() == 1


def test_other_dependencies_are_installed(checkout: Checkout) -> None:
    checkout.launch("config")
    with (checkout.folder / "pyproject.toml").open("a") as file:
        file.write("\n# another list\n")
    checkout.calls()
    checkout.launch("config")
    assert checkout.installs() == 1


def test_only_the_command_writes_to_stdout(checkout: Checkout) -> None:
    assert checkout.launch("config").stdout == ""


@pytest.mark.parametrize("arguments", [[], ["pretrian"]])
def test_an_unknown_command_shows_the_usage_and_installs_nothing(
    checkout: Checkout, arguments: list[str]
) -> None:
    done = checkout.launch(*arguments)
    assert done.returncode == 2
    assert "usage: ./launch.sh" in done.stderr
    assert checkout.calls() == []


def test_quickstart_tells_the_whole_story(checkout: Checkout) -> None:
    home = checkout.folder / "runs" / "quickstart"
    assert checkout.launch("quickstart", "--train.steps", "5").returncode == 0
    calls = checkout.calls()
    assert sum("data_tools synth" in call for call in calls) == 2
    stages = [call for call in calls if "vlpretrain.cli.launch" in call]
    assert [call.split()[2] for call in stages] == ["pretrain", "finetune", "finetune"]
    assert all(call.endswith("--train.steps 5") for call in stages)
    for call, name in zip(
        stages, ("quickstart", "quickstart_vqa", "quickstart_retrieval"), strict=True
    ):
        assert f"configs/{name}.yaml" in call
    assert all(f"--init {home}/run/pretrain/export" in call for call in stages[1:])
    assert calls[-1].endswith(
        f"report {home}/run/pretrain {home}/run/vqa {home}/run/retrieval "
        f"--out {home}/run/story.html"
    )


def test_quickstart_renders_once_and_takes_a_fresh_folder(checkout: Checkout) -> None:
    home = checkout.folder / "runs" / "quickstart"
    for name in ("data/train", "data/val", "run"):
        (home / name).mkdir(parents=True)
    assert checkout.launch("quickstart").returncode == 0
    calls = checkout.calls()
    assert not any("data_tools synth" in call for call in calls)
    assert f"--out {home}/run-2/pretrain" in next(c for c in calls if "launch pretrain" in c)
