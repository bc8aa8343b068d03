"""Whatever the files of a run hold, the page is written, and what they say stays text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up_runs import (
    Tags,
    made_up_chain,
    write_attention,
    write_classification,
    write_retrieval,
    write_vqa,
)

from vlpretrain.report import write_report, write_story

HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
NAMES = ("vqa", "retrieval", "classification", "attention")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A chain whose last run has every evaluation."""
    chain = made_up_chain(tmp_path_factory.mktemp("chain"))
    for write in (write_vqa, write_retrieval, write_classification, write_attention):
        write(chain[-1] / "evaluation")
    return chain


def poisoned(value: Any) -> Any:
    """Every text of a JSON value, and every new name, made hostile; numbers stay."""
    if isinstance(value, dict):
        return {name: poisoned(item) for name, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


def test_everything_from_the_evaluations_is_escaped(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run<script>"
    (run / "evaluation").mkdir(parents=True)
    for path in runs[-1].glob("evaluation/*.json"):
        content = poisoned(json.loads(path.read_text()))
        (run / "evaluation" / path.name).write_text(json.dumps(content))
    for name in ("summary.json", "environment.json"):
        content = {**poisoned(json.loads((runs[-1] / name).read_text())), HOSTILE: HOSTILE}
        (run / name).write_text(json.dumps(content))
    config = {"task": {"name": HOSTILE}, "init": HOSTILE, HOSTILE: HOSTILE}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for path in (write_report(run), write_story([runs[0], run])):
        page = path.read_text()
        tags = Tags(page)
        assert "script" not in tags.names
        assert "<script" not in page
        assert "&lt;script&gt;alert" in page
        assert all(address.startswith(("data:image/", "#")) for address in tags.addresses)
        assert not {name for name in tags.attributes if name.startswith("on")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", ["", "{[", "[1, 2]", "null", "{}", '{"a": ' * 5000, "\x00\xff"])
def test_a_file_that_cannot_be_read_leaves_its_section_out_with_a_note(
    runs: list[Path], tmp_path: Path, name: str, content: str
) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / f"{name}.json").write_text(content, encoding="latin-1")
    page = write_report(tmp_path).read_text()
    assert f"evaluation/{name}.json can&#39;t be read" in page
    assert f'id="{name}"' not in page


JUNK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(10**400),
        st.floats(),
        st.sampled_from(["", "a", "\ud800", "\x00", HOSTILE, "x" * 10_000]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of everything within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    for name, item in inner if isinstance(value, dict | list) else ():
        found += places(item, (*path, name)) if isinstance(item, dict | list) else [(*path, name)]
    return found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_junk_in_any_place_is_passed_over(
    runs: list[Path], tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content = json.loads((runs[-1] / "evaluation" / f"{name}.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        *above, last = data.draw(st.sampled_from(places(content)))
        holder = content
        for step in above:
            holder = holder[step]
        holder[last] = data.draw(JUNK)
    run = tmp_path_factory.mktemp("junk")
    (run / "evaluation").mkdir()
    (run / "evaluation" / f"{name}.json").write_text(json.dumps(content))
    page = write_report(run).read_text()
    assert "<script" not in page
    assert "nan %" not in page
    assert len(page) < 1_000_000
