"""What the page shows of one run, by section."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import yaml

from vlpretrain.report import charts, figures, pictures
from vlpretrain.report.attention import AttentionExample, read_attention
from vlpretrain.report.classification import ClassificationView, read_classification
from vlpretrain.report.records import RunRecord
from vlpretrain.report.retrieval import RetrievalView, read_retrieval
from vlpretrain.report.tables import Table, list_table, tables
from vlpretrain.report.trust import TrustRow, trust_rows
from vlpretrain.report.values import count, mapping, text
from vlpretrain.report.vqa import VqaView, read_vqa

TASK_TITLES = {
    "pretrain": "pretraining",
    "vqa": "visual question answering",
    "retrieval": "retrieval",
    "classification": "classification",
}
SECTION_TITLES = {
    "figures": "Final figures",
    "vqa": "Visual question answering",
    "retrieval": "Retrieval",
    "classification": "Classification",
    "attention": "Where the model looked",
    "trust": "How far each number can be trusted",
    "losses": "Losses",
    "progress": "Learning rate and speed",
    "more": "More figures",
    "reconstructions": "Hidden and reconstructed",
    "pairs": "Pictures and captions",
    "data": "Data",
    "model": "Model",
    "environment": "Command and environment",
}
# Tasks whose evaluation leaves a file of the task's name.
EVALUATED = ("vqa", "retrieval", "classification")
# A run of pretraining shows these whatever it left, with a note where it left nothing.
OF_PRETRAINING = ("figures", "losses", "progress", "reconstructions", "pairs")


@dataclass(frozen=True)
class RunView:
    """A run, ready for the templates. An empty field is a section without content."""

    name: str
    task: str
    is_pretraining: bool
    logged: bool
    facts: tuple[tuple[str, str], ...]
    began_from: str  # the export that its weights came from
    notes: tuple[str, ...]
    tiles: tuple[figures.Tile, ...]
    loss_rows: tuple[figures.LossRow, ...]
    loss_charts: tuple[charts.Chart, ...]
    progress_charts: tuple[charts.Chart, ...]
    other_charts: tuple[charts.Chart, ...]
    reconstructions: tuple[pictures.Reconstruction, ...]
    pair_groups: tuple[pictures.PairGroup, ...]
    vqa: VqaView | None
    retrieval: RetrievalView | None
    classification: ClassificationView | None
    attention: tuple[AttentionExample, ...]
    data_tables: tuple[Table, ...]
    parameter_bars: tuple[tuple[str, str, float], ...]
    environment_tables: tuple[Table, ...]
    config_text: str
    command: str
    config_path: str
    export_literal: str
    trust: tuple[TrustRow, ...]

    @property
    def sections(self) -> dict[str, str]:
        """Name and title of each section that is shown, in order."""
        final = {"figures": self.tiles or self.loss_rows}
        content: dict[str, Any] = {
            **(final if self.is_pretraining else {}),
            "vqa": self.vqa,
            "retrieval": self.retrieval,
            "classification": self.classification,
            "attention": self.attention,
            "trust": self.trust,
            **final,
            "losses": self.loss_charts,
            "progress": self.progress_charts,
            "more": self.other_charts,
            "reconstructions": self.reconstructions,
            "pairs": self.pair_groups,
            "data": True,
            "model": self.parameter_bars or self.is_pretraining,
            "environment": True,
        }
        always = OF_PRETRAINING if self.is_pretraining else ()
        shown = {name: SECTION_TITLES[name] for name in content if content[name] or name in always}
        if "figures" in shown and not (self.tiles or self.is_pretraining):
            shown["figures"] = "Final losses"
        return shown


def run_view(run: RunRecord, name: str) -> RunView:
    levels = figures.chance_levels(run)
    folder, found = run.folder / "evaluation", run.evaluations
    first = found.get("evaluation", {})
    # The evaluation's own section says more than the logged figures do.
    has_own = run.task != "pretrain" and run.task in found
    return RunView(
        name=name,
        task=TASK_TITLES.get(run.task, run.task),
        is_pretraining=run.task == "pretrain" and run.logged,
        logged=run.logged,
        facts=header_facts(run),
        began_from=text(run.config.get("init")),
        notes=tuple(_notes(run)),
        tiles=() if has_own else figures.tiles(run, levels),
        loss_rows=figures.loss_rows(run, levels),
        loss_charts=figures.loss_charts(run, levels),
        progress_charts=figures.progress_charts(run),
        other_charts=figures.other_charts(run, levels),
        reconstructions=pictures.reconstructions(first, folder),
        pair_groups=pictures.pair_groups(first, folder),
        vqa=read_vqa(found.get("vqa", {}), folder),
        retrieval=read_retrieval(found.get("retrieval", {}), folder),
        classification=read_classification(found.get("classification", {}), folder),
        attention=read_attention(found.get("attention", {}), folder),
        data_tables=data_tables(run),
        parameter_bars=parameter_bars(run.summary.get("parameters")),
        environment_tables=tables(run.environment, "Environment"),
        config_text=config_text(run.config),
        command=command(run),
        config_path=shlex.quote(str(run.folder / "config.yaml")),
        export_literal=repr(str(run.folder / "export")),
        trust=trust_rows(run),
    )


def _notes(run: RunRecord) -> Iterator[str]:
    """What was left out, and why."""
    if run.broken_lines:
        lines = "line" if run.broken_lines == 1 else "lines"
        yield f"{run.broken_lines} unreadable {lines} of metrics.jsonl left out."
    for name in run.unreadable:
        yield f"evaluation/{name} can't be read: its section is left out."
    own = f"{run.task}.json"
    if run.task in EVALUATED and run.task not in run.evaluations and own not in run.unreadable:
        yield f"There is no evaluation/{own}: the run has not been evaluated."


def header_facts(run: RunRecord) -> tuple[tuple[str, str], ...]:
    """The run in a line: steps, samples, time, speed."""
    facts = []
    steps = [series.step[-1] for series in (*run.train.values(), *run.val.values())]
    if steps:
        facts.append(("steps", f"{max(steps):,.0f}"))
    if "samples_seen" in run.train:
        facts.append(("samples seen", f"{run.train['samples_seen'].value[-1]:,.0f}"))
    if "seconds" in run.train:
        facts.append(("training time", duration(float(run.train["seconds"].value[-1]))))
    speed = run.train.get("samples_per_second")
    rate = speed.last_finite(0.5) if speed else None
    if rate is not None:
        facts.append(("samples a second", charts.format_number(rate)))
    return tuple(facts)


def duration(seconds: float) -> str:
    if not seconds < 1e10:  # also NaN
        return "unknown"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def command(run: RunRecord) -> str:
    """The command that started the run; empty where it was not recorded."""
    given = run.summary.get("command")
    if isinstance(given, list):
        return shlex.join(str(word) for word in given)
    return str(given) if given else ""


def config_text(config: dict[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""


def data_tables(run: RunRecord) -> tuple[Table, ...]:
    """What the summary says of the data, and the samples that could not be used."""
    found = tables(run.summary.get("data"), "Data")
    if not run.skips.count:
        none = Table("Skipped samples", (), (("could not be used", "none"),))
        return (*found, none) if found else ()
    listed = list_table(list(run.skips.first), f"Skipped samples: {run.skips.count:,}")
    return (*found, replace(listed, num_more=run.skips.count - len(listed.rows)))


def parameter_bars(parameters: object) -> tuple[tuple[str, str, float], ...]:
    """Part, count, and share of the largest part (for the bar's length)."""
    counted = {str(k): count(v) for k, v in mapping(parameters).items()}
    counts = {name: num for name, num in counted.items() if num is not None}
    largest = max(counts.values(), default=0) or 1
    return tuple((name, f"{num:,}", num / largest) for name, num in counts.items())
