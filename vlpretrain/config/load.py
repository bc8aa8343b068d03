"""YAML and command line -> RunConfig, strictly: every value is read as the schema's type says.

PyYAML's own guesses are not used: `lr: 1e-4` is a number because `lr` is a float, and
`name: on` is a text because `name` is one.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from vlpretrain.config.schema import RunConfig
from vlpretrain.errors import UserError

Section = TypeVar("Section")


def load_config(
    path: str | Path, overrides: Sequence[str] = (), prog: str = "vlpretrain config"
) -> RunConfig:
    """A configuration file with the command line's changes (`--optim.lr 3e-4`).

    Raises UserError for a mistake in either; `--help` prints the fields and exits.
    """
    return override(read_yaml(path), overrides, prog=prog)


def read_yaml(path: str | Path) -> RunConfig:
    """A configuration file, its gaps filled with the defaults."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"no such configuration file: {path}", fix=_nearest_file(Path(path))
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't be read: {error}", where=str(path)) from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, where: str = "configuration") -> RunConfig:
    """YAML text -> RunConfig; UserErrors name `where`, the line and the field."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"is not valid YAML: {error}", where=where) from None
    if node is None:
        return RunConfig()
    return _section(RunConfig, node, _Place(where, ""))


def override(
    config: RunConfig, overrides: Sequence[str], prog: str = "vlpretrain config"
) -> RunConfig:
    """The configuration with `--section.field value` arguments applied, by tyro."""
    if not overrides:
        return config
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            return tyro.cli(RunConfig, default=config, args=list(overrides), prog=prog)
    except SystemExit as exit_:
        if not exit_.code:
            raise
        raise UserError(message.getvalue().strip()) from None


@dataclass(frozen=True)
class _Place:
    """Where a value stands, for messages."""

    file: str
    path: str

    def under(self, key: str) -> _Place:
        return _Place(self.file, f"{self.path}.{key}" if self.path else key)

    def error(self, problem: str, node: yaml.Node, fix: str = "") -> UserError:
        where = f"{self.file}, line {node.start_mark.line + 1}"
        return UserError(problem, where=f"{where}, {self.path}" if self.path else where, fix=fix)


def _section(schema: type[Section], node: yaml.Node, place: _Place) -> Section:
    """A YAML mapping -> the dataclass `schema`; an empty section means its defaults."""
    if _is_null(node):
        return schema()
    if not isinstance(node, yaml.MappingNode):
        raise place.error(f"expected a section with fields, found {_shown(node)}", node)
    annotation_of = typing.get_type_hints(schema)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        if key in values:
            raise place.error(f"{key!r} stands here twice", key_node, fix="keep one of them")
        if key not in annotation_of:
            raise place.error(f"unknown key {key!r}", key_node, fix=_nearest_key(key, schema))
        values[key] = _value(annotation_of[key], value_node, place.under(key))
    return schema(**values)


def _value(annotation: Any, node: yaml.Node, place: _Place) -> Any:
    """A YAML node -> a value of the annotated type."""
    if is_dataclass(annotation):
        return _section(typing.cast(type, annotation), node, place)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return _tuple(arguments, node, place)
    if origin is typing.Literal:
        return _choice(arguments, node, place)
    return _scalar(annotation, node, place)


def _tuple(arguments: tuple[Any, ...], node: yaml.Node, place: _Place) -> tuple[Any, ...]:
    """A list, or a single scalar as a list of one."""
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if arguments[-1] is Ellipsis:
        return tuple(_value(arguments[0], item, place) for item in items)
    if len(items) != len(arguments):
        raise place.error(f"expected {len(arguments)} values, found {len(items)}", node)
    return tuple(_value(kind, item, place) for kind, item in zip(arguments, items, strict=True))


def _choice(choices: tuple[Any, ...], node: yaml.Node, place: _Place) -> Any:
    for choice in choices:
        if isinstance(node, yaml.ScalarNode) and node.value == str(choice):
            return choice
    listed = ", ".join(str(choice) for choice in choices)
    near = difflib.get_close_matches(str(node.value), [str(choice) for choice in choices], n=1)
    fix = f"did you mean {near[0]!r}?" if near else ""
    raise place.error(f"expected one of {listed}, found {_shown(node)}", node, fix=fix)


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _scalar(kind: type, node: yaml.Node, place: _Place) -> Any:
    read = {bool: _bool, int: _int, float: _float, str: _str}[kind]
    if isinstance(node, yaml.ScalarNode) and not _is_null(node):
        try:
            return read(node)
        except ValueError:
            pass
    raise place.error(f"expected {_EXPECTED[kind]}, found {_shown(node)}", node)


def _str(node: yaml.ScalarNode) -> str:
    return str(node.value)


def _bool(node: yaml.ScalarNode) -> bool:
    if node.style is not None or node.value.lower() not in ("true", "false"):
        raise ValueError(node.value)
    return bool(node.value.lower() == "true")


def _int(node: yaml.ScalarNode) -> int:
    """`1000`, `1_000` and `1e3`; YAML 1.1's octal (`010`) and base 60 (`1:30`) are not used."""
    number = _float(node)
    if not number.is_integer():
        raise ValueError(node.value)
    text = node.value.replace("_", "")
    return int(text) if text.lstrip("+-").isdigit() else int(number)


def _float(node: yaml.ScalarNode) -> float:
    if node.style is not None:  # quoted: a text, whatever it looks like
        raise ValueError(node.value)
    number = float(node.value)
    if not math.isfinite(number):
        raise ValueError(node.value)
    return number


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.MappingNode):
        return "a section"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    return "nothing" if _is_null(node) else repr(node.value)


def _nearest_key(key: str, schema: type) -> str:
    """A sibling that looks like `key`, or the section where a field of that name lives."""
    names = [item.name for item in fields(schema)]
    near = difflib.get_close_matches(key, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    elsewhere = [path for path in field_paths(RunConfig) if path.split(".")[-1] == key]
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    return f"the fields here are {', '.join(names)}"


def field_paths(schema: type, prefix: str = "") -> list[str]:
    """The dotted path of every field, sections included."""
    paths = []
    for name, annotation in typing.get_type_hints(schema).items():
        paths.append(prefix + name)
        if is_dataclass(annotation):
            paths += field_paths(typing.cast(type, annotation), f"{prefix}{name}.")
    return paths


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    here = sorted(item.name for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml"))
    near = difflib.get_close_matches(path.name, here, n=3) or here[:5]
    return f"in that folder: {', '.join(near)}" if near else "that folder holds no .yaml file"
