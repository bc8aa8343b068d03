"""The configuration is strict: what is read is what the schema says, or a message that helps."""

from __future__ import annotations

from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpretrain.config.dump import dump_yaml, field_docs
from vlpretrain.config.load import load_config, override, parse_yaml, read_yaml
from vlpretrain.config.schema import DataConfig, OptimConfig, RunConfig
from vlpretrain.errors import UserError


def message(text: str) -> str:
    with pytest.raises(UserError) as raised:
        parse_yaml(text, where="run.yaml")
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("3", 3.0), ("3E2", 300.0), ("-1.5", -1.5), ("0.1", 0.1)]
)
def test_a_float_field_reads_every_spelling_of_a_number(text: str, value: float) -> None:
    number = parse_yaml(f"optim: {{weight_decay: {text}}}").optim.weight_decay
    assert number == value
    assert isinstance(number, float)


@pytest.mark.parametrize(("text", "value"), [("12", 12), ("1e3", 1000), ("1_000", 1000)])
def test_an_int_field_reads_whole_numbers(text: str, value: int) -> None:
    number = parse_yaml(f"train: {{steps: {text}}}").train.steps
    assert number == value
    assert isinstance(number, int)


def test_one_text_is_a_list_of_one() -> None:
    assert parse_yaml("data: {train: shards}").data.train == ("shards",)
    assert parse_yaml("data: {train: [a, b]}").data.train == ("a", "b")


@pytest.mark.parametrize("text", ["on", "no", "0123", "1e5", "2024-01-01", "~tilde"])
def test_a_text_field_keeps_what_is_written(text: str) -> None:
    assert parse_yaml(f"out: {text}").out == text


def test_gaps_are_filled_with_defaults() -> None:
    assert parse_yaml("") == RunConfig()
    assert parse_yaml("data:\n  # nothing yet\noptim: {lr: 0.5}") == RunConfig(
        optim=OptimConfig(lr=0.5)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimm: {}", ["run.yaml, line 1", "'optimm'", "did you mean 'optim'"]),
        ("optim:\n  lrr: 3", ["line 2", "optim", "'lrr'", "did you mean 'lr'"]),
        ("lr: 3", ["'lr'", "optim.lr"]),
        ("optim: {lr: fast}", ["optim.lr", "a number", "'fast'"]),
        ("optim: {lr: nan}", ["optim.lr", "'nan'"]),
        ("optim: {lr: '3'}", ["optim.lr", "a number"]),
        ("train: {steps: 1.5}", ["train.steps", "whole number", "'1.5'"]),
        ("data: {flip: 1}", ["data.flip", "true or false", "'1'"]),
        ("data: {crop: center}", ["data.crop", "random, centre", "did you mean 'centre'"]),
        ("deepspeed: {zero_stage: 4}", ["deepspeed.zero_stage", "0, 1, 2, 3", "'4'"]),
        ("optim: {betas: [0.9]}", ["optim.betas", "expected 2 values, found 1"]),
        ("data: {train: [[a]]}", ["data.train", "a text", "a list"]),
        ("optim: 3", ["optim", "a section", "'3'"]),
        ("- a", ["a section", "a list"]),
        ("out:", ["out", "a text", "nothing"]),
        ("out: a\nout: b", ["line 2", "'out' stands here twice"]),
        ("optim: {lr: 1, lr: 2}", ["'lr' stands here twice"]),
        ("a: [", ["run.yaml", "not valid YAML", "line 1"]),
        ("--- {}\n--- {}", ["not valid YAML"]),
        ("out: !!python/object/apply:os.getcwd []", ["out", "a text"]),
    ],
)
def test_a_mistake_is_named_with_value_place_and_fix(text: str, expected: list[str]) -> None:
    said = message(text)
    assert [part for part in expected if part not in said] == []


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("")
    with pytest.raises(UserError, match=r"quickstart\.yaml"):
        read_yaml(tmp_path / "quikstart.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"out: caf\xe9")
    with pytest.raises(UserError, match="latin"):
        read_yaml(tmp_path / "latin.yaml")


@pytest.mark.parametrize("arguments", [["--optim.lr", "3e-4"], ["--optim.lr=3e-4"]])
def test_the_command_line_wins_over_the_file(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "run.yaml").write_text("optim: {lr: 1e-2, clip: 0.5}")
    config = load_config(tmp_path / "run.yaml", arguments)
    assert config.optim == OptimConfig(lr=3e-4, clip=0.5)


def test_the_command_line_reads_lists_flags_and_underscores() -> None:
    arguments = ["--data.train", "a", "b", "--data.no-shuffle", "--data.image_size", "96"]
    assert override(RunConfig(), arguments).data == DataConfig(
        train=("a", "b"), shuffle=False, image_size=96
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--optim.lrr", "1"], "--optim.lr"), (["--optim.lr", "fast"], "fast"), (["stray"], "stray")],
)
def test_a_mistake_on_the_command_line_is_a_user_error(arguments: list[str], expected: str) -> None:
    with pytest.raises(UserError) as raised:
        override(RunConfig(), arguments)
    assert expected in str(raised.value)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None, max_examples=40)
@given(texts, st.lists(texts, max_size=3), st.floats(0, 1e12), st.integers(0, 10**12))
def test_the_dump_reads_back_to_the_same_configuration(
    out: str, train: list[str], lr: float, pixels: int
) -> None:
    config = replace(
        RunConfig(),
        out=out,
        data=DataConfig(train=tuple(train), max_pixels=pixels, flip=True),
        optim=OptimConfig(lr=lr),
    )
    assert parse_yaml(dump_yaml(config)) == config
    assert parse_yaml(dump_yaml(config, documented=False)) == config


def test_every_field_and_section_is_documented() -> None:
    assert _undocumented(RunConfig()) == []


def _undocumented(section: Any) -> list[str]:
    missing = []
    for name, text in field_docs(type(section)).items():
        value = getattr(section, name)
        if is_dataclass(value):
            missing += _undocumented(value) + ([] if type(value).__doc__ else [name])
        elif not text:
            missing.append(name)
    return missing
