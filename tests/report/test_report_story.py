"""The page of several runs: found by what each began from, one file, everything in its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from made_up_runs import Tags, made_up_chain, pretrain_run, task_run, write_json, write_vqa

from vlpretrain.errors import UserError
from vlpretrain.report import find_chain, write_report, write_story
from vlpretrain.report.chain import short_names


def began_from(run: Path, init: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "init": init}))


def test_a_story_tells_of_every_run_in_order(tmp_path: Path) -> None:
    runs = made_up_chain(tmp_path)
    path = write_story(runs)
    page = path.read_text()
    assert path == runs[-1] / "story.html"
    assert "pretrain → vqa → retrieval" in page
    places = [page.index(f'id="{place}"') for place in ("numbers", "trust", "run-1", "run-2")]
    assert places == sorted(places)
    for command in ("pretrain configs/pretrain.yaml", "finetune configs/vqa.yaml"):
        assert page.count(command) >= 2
    assert not list(tmp_path.rglob(".story*"))


def test_every_link_of_a_story_leads_somewhere_in_it(tmp_path: Path) -> None:
    page = write_story(made_up_chain(tmp_path)).read_text()
    places = re.findall(r' id="([^"]+)"', page)
    assert len(places) == len(set(places))
    links = re.findall(r'href="([^"]+)"', page)
    assert links
    assert {link.removeprefix("#") for link in links} <= set(places)
    assert 'href="#run-2-vqa"' in page


def test_a_story_fetches_and_runs_nothing(tmp_path: Path) -> None:
    page = write_story(made_up_chain(tmp_path)).read_text()
    tags = Tags(page)
    assert not {"script", "link", "iframe", "object"} & tags.names
    assert all(address.startswith(("data:image/", "#")) for address in tags.addresses)
    assert "default-src 'none'" in page


def test_one_table_holds_the_trust_in_all_numbers(tmp_path: Path) -> None:
    page = write_story(made_up_chain(tmp_path)).read_text()
    assert page.count('<table class="rows">') == 1
    assert page.count('<tr class="group">') == 3
    assert {f"one seed ({seed})" in page for seed in range(3)} == {True}


def test_versions_that_differ_stand_out(tmp_path: Path) -> None:
    runs = made_up_chain(tmp_path)
    write_json(runs[1] / "environment.json", {"versions": {"torch": "2.13.0"}})
    page = write_story(runs).read_text()
    assert '<td class="strong">2.13.0</td>' in page
    assert "not the same for every run" in page


def test_the_chain_is_followed_back_by_what_each_run_began_from(tmp_path: Path) -> None:
    runs = made_up_chain(tmp_path)
    assert find_chain(runs[2]) == runs
    assert find_chain(runs[0]) == runs[:1]


def test_an_address_relative_to_where_the_run_was_started_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pretrain_run(tmp_path / "runs" / "first")
    last = task_run(tmp_path / "runs" / "last", "vqa", init="runs/first/export")
    assert [run.resolve() for run in find_chain(last)] == [first, last]
    monkeypatch.chdir(tmp_path)
    assert [run.resolve() for run in find_chain(Path("runs/last"))] == [first, last]


def test_an_average_beside_the_last_weights_belongs_to_the_same_run(tmp_path: Path) -> None:
    first = pretrain_run(tmp_path / "first")
    last = task_run(tmp_path / "last", "vqa", init=str(first / "export" / "ema"))
    assert find_chain(last) == [first, last]


@pytest.mark.parametrize("init", ["gone/export", "", 7, None, "a\0b", "hub/model"])
def test_the_chain_ends_where_the_run_before_is_not_there(tmp_path: Path, init: object) -> None:
    run = task_run(tmp_path / "vqa", "vqa")
    began_from(run, init)
    assert find_chain(run) == [run]


def test_runs_that_name_one_another_end_the_chain(tmp_path: Path) -> None:
    first, second = task_run(tmp_path / "a", "vqa"), task_run(tmp_path / "b", "vqa")
    began_from(first, str(second / "export"))
    began_from(second, str(first / "export"))
    assert find_chain(first) == [second, first]
    began_from(first, str(first / "export"))
    assert find_chain(first) == [first]


def test_a_run_that_comes_twice_is_shown_once(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path / "run")
    page = write_story([run, tmp_path / "run" / ".." / "run"]).read_text()
    assert "the story of 1 run<" in page


def test_runs_of_one_name_are_told_apart() -> None:
    assert short_names([Path("/x/a/run"), Path("/x/b/run"), Path("/x/c")]) == [
        "a/run",
        "b/run",
        "c",
    ]
    assert short_names([Path("/run"), Path("/x/run")]) == ["//run", "x/run"]


@pytest.mark.parametrize("missing", ["absent", "empty"])
def test_a_folder_that_is_no_run_is_named_and_nothing_is_written(
    tmp_path: Path, missing: str
) -> None:
    (tmp_path / "empty").mkdir()
    run = pretrain_run(tmp_path / "run")
    with pytest.raises(UserError, match=missing):
        write_story([run, tmp_path / missing], tmp_path / "story.html")
    assert not (tmp_path / "story.html").exists()


def test_the_page_goes_where_it_is_wanted(tmp_path: Path) -> None:
    run = pretrain_run(tmp_path / "run")
    assert write_report(run, tmp_path / "new" / "page.html").is_file()
    with pytest.raises(UserError, match="is a folder"):
        write_story([run], tmp_path)


def test_an_evaluation_without_training_is_a_run_too(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    write_vqa(tmp_path / "probe" / "evaluation")
    page = write_report(tmp_path / "probe").read_text()
    assert "81.1 %" in page
    for foreign in ("No training loss", "No held-out", "left no", "Going on"):
        assert foreign not in page
