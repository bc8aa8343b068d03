"""RunConfig -> YAML that reads back to the same RunConfig, each field under its documentation."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import typing
from dataclasses import fields, is_dataclass
from typing import Any

import yaml

from vlpretrain.config.schema import RunConfig

_WIDTH = 100  # columns


def dump_yaml(config: RunConfig, documented: bool = True) -> str:
    """The configuration with every default filled in; `documented` puts each field's text above."""
    return "\n".join(_section_lines(config, "", documented)) + "\n"


def _section_lines(section: Any, indent: str, documented: bool) -> list[str]:
    lines = []
    for item in fields(section):
        value = getattr(section, item.name)
        nested = is_dataclass(value)
        if documented:
            lines += [""] if nested and not indent else []
            lines += _comment(type(section), item.name, value, indent)
        if nested:
            lines += [f"{indent}{item.name}:", *_section_lines(value, indent + "  ", documented)]
        else:
            lines.append(f"{indent}{item.name}: {_text(value)}")
    return lines


def _comment(schema: type, name: str, value: Any, indent: str) -> list[str]:
    doc = inspect.getdoc(type(value)) if is_dataclass(value) else field_docs(schema)[name]
    choices = _choices(schema, name)
    text = " ".join(str(doc).split()) + (f" One of: {', '.join(choices)}." if choices else "")
    prefix = f"{indent}# "
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _choices(schema: type, name: str) -> list[str]:
    annotation = typing.get_type_hints(schema)[name]
    if typing.get_origin(annotation) is not typing.Literal:
        return []
    return [str(choice) for choice in typing.get_args(annotation)]


@functools.cache
def field_docs(schema: type) -> dict[str, str]:
    """The text under each field of a dataclass; empty where there is none."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {item.name: "" for item in fields(schema)}
    for statement, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
        ):
            docs[statement.target.id] = inspect.cleandoc(str(following.value.value))
    return docs


def _text(value: Any) -> str:
    """One line of YAML: texts with line ends of any kind are double-quoted, those escaped."""
    items = list(value) if isinstance(value, tuple) else [value]
    printable = all(item.isprintable() for item in items if isinstance(item, str))
    return _safe_dump(
        items if isinstance(value, tuple) else value, style=None if printable else '"'
    )


def _safe_dump(value: Any, style: str | None) -> str:
    text = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")
