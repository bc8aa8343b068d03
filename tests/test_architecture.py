"""Who may import whom, and how long things may get. An exception stands here with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each part of the library may import of ours besides itself.
FOUNDATION = {"types", "errors", "distributed", "config", "padding"}
LAYERS: dict[str, set[str]] = {
    "types": set(),
    "errors": set(),
    "distributed": set(),
    "lettering": set(),
    "padding": set(),
    "pixels": {"types", "errors"},
    "config": {"errors"},
    "data": FOUNDATION | {"pixels"},
    "models": FOUNDATION | {"pixels"},
    "metrics": {"types", "errors"},
    "objectives": FOUNDATION | {"models", "pixels"},
    "tasks": FOUNDATION | {"models", "objectives", "metrics", "pixels", "lettering"},
    "compression": FOUNDATION | {"models", "objectives", "metrics"},
    "engine": FOUNDATION,
    "report": {"types", "errors", "config"},
}
SEES_ALL = {"build", "cli"}
DATA_TOOLS_SEE = {"data", "types", "errors", "pixels", "lettering", "config"}

# (imported by, imported): why.
IMPORT_EXCEPTIONS = {
    ("", "models"): "`from vlpretrain import VLModel`, loaded when it is asked for",
}

FUNCTION_LINES, FILE_LINES, PARAMETERS, STEP_LINES = 60, 400, 8, 40

# "path" or "path:function": why it may be longer, or take more.
BUDGET_EXCEPTIONS: dict[str, str] = {}


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


LIBRARY = python_files("vlpretrain")
OURS = LIBRARY + python_files("data_tools")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(path: Path) -> str:
    """The part of the library that a file belongs to; "" for vlpretrain/__init__.py."""
    first = path.relative_to(ROOT / "vlpretrain").parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative import"
            yield str(node.module)
            if node.module == "vlpretrain":
                yield from (f"vlpretrain.{alias.name}" for alias in node.names)


def imported_layers(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported_modules(path)]
    return {part[1] for part in parts if part[0] == "vlpretrain" and len(part) > 1}


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    layer = layer_of(path)
    if layer in SEES_ALL:
        return
    allowed = LAYERS.get(layer, set()) | {layer, "__version__"}
    allowed |= {imported for importer, imported in IMPORT_EXCEPTIONS if importer == layer}
    assert imported_layers(path) - allowed == set()
    assert not any(name.split(".")[0] == "data_tools" for name in imported_modules(path))


@pytest.mark.parametrize("path", python_files("data_tools"), ids=name_of)
def test_tools_see_the_data_layer_alone(path: Path) -> None:
    assert imported_layers(path) - DATA_TOOLS_SEE - {"__version__"} == set()


def test_every_part_of_the_library_has_its_rule() -> None:
    known = set(LAYERS) | SEES_ALL | {""}
    assert {layer_of(path) for path in LIBRARY} - known == set()


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([argument for argument in arguments if argument.arg not in ("self", "cls")])


@pytest.mark.parametrize("path", OURS, ids=name_of)
def test_files_and_functions_keep_their_budgets(path: Path) -> None:
    over = [] if len(path.read_text().splitlines()) <= FILE_LINES else [name_of(path)]
    for function in functions_of(path):
        limit = STEP_LINES if function.name == "train_step" else FUNCTION_LINES
        if num_lines(function) > limit or num_parameters(function) > PARAMETERS:
            over.append(f"{name_of(path)}:{function.name}")
    assert [name for name in over if name not in BUDGET_EXCEPTIONS] == []


def test_the_median_function_is_short() -> None:
    lengths = sorted(num_lines(function) for path in OURS for function in functions_of(path))
    assert lengths[len(lengths) // 2] < 15


def test_exceptions_are_still_needed() -> None:
    for name in BUDGET_EXCEPTIONS:
        path = ROOT / name.split(":")[0]
        names = {function.name for function in functions_of(path)}
        assert ":" not in name or name.split(":")[1] in names
