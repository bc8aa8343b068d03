"""The commands: quick help, a mistake without a traceback, a configuration that reads back."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlpretrain.cli.main import main
from vlpretrain.config.load import parse_yaml
from vlpretrain.config.schema import RunConfig

ROOT = Path(__file__).resolve().parents[2]


def test_help_needs_no_heavy_import() -> None:
    code = (
        "import sys; from vlpretrain.cli.main import main; main(['--help']);"
        "sys.exit(bool({'torch', 'deepspeed', 'transformers'} & set(sys.modules)))"
    )
    began = time.perf_counter()
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
    assert time.perf_counter() - began < 10  # 0.05 s on an idle machine


def test_config_prints_what_reads_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("data: {train: shards}\ntrain: {steps: 1e3}")
    assert main(["config", str(tmp_path / "run.yaml"), "--optim.lr", "1e-4"]) == 0
    config = parse_yaml(capsys.readouterr().out)
    assert (config.train.steps, config.optim.lr, config.data.train) == (1000, 1e-4, ("shards",))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrian"], "pretrain"),
        (["config"], "the configuration file comes first"),
        (["config", "absent.yaml"], "absent.yaml"),
        (["config", "{run}", "--optim.lrr", "3"], "--optim.lr"),
        (["config", "{run}", "--model.vision.patch", "15"], "does not divide"),
        (["pretrain", "{run}", "--processes", "2", "--train.global-batch", "3"], "2 ranks"),
        (["pretrain", "{run}", "--hostfile", "absent"], "no such hostfile: absent"),
        (["doctor", "{run}", "--ranks", "none"], "--ranks"),
        (["report", "absent"], "absent"),
        (["report", "absent", "--chain"], "absent"),
        (["report", "{run}", "absent"], "run.yaml"),
        (["report"], "vlpretrain report RUN"),
        (["report", "{run}", "--chian"], "--chian"),
        (["report", "{run}", "--out"], "--out"),
    ],
)
def test_a_mistake_ends_with_code_2_and_a_message(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("data: {train: shards}")
    given = [argument.format(run=tmp_path / "run.yaml") for argument in arguments]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert "Traceback" not in said


def test_a_report_is_of_one_run_of_several_or_of_a_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last, page = (str(tmp_path / name) for name in ("first", "last", "page.html"))
    for run, init in ((first, ""), (last, f"{first}/export")):
        Path(run).mkdir()
        (Path(run) / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
        (Path(run) / "config.yaml").write_text(f"init: {init}")
    for arguments, written, told_of_first in (
        ([last], f"{last}/report.html", False),
        ([first, last], f"{last}/story.html", True),
        ([last, "--chain"], f"{last}/story.html", True),
        (["--out", page, last, "--chain"], page, True),
        ([last, "--out", page], page, False),
    ):
        assert main(["report", *arguments]) == 0
        assert capsys.readouterr().out == f"{written}\n"
        assert ("first →" in Path(written).read_text()) == told_of_first


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_configurations_are_whole_and_headed(path: Path) -> None:
    text = path.read_text()
    assert parse_yaml(text, where=path.name) != RunConfig()
    header = text.partition("\nout:")[0]
    parts = ("Command:", "Hardware:", "Duration:", "Expect:")
    assert [part for part in parts if part not in header] == []
