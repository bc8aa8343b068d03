"""Which figures of a run are compared with what: chance levels, final values, charts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from vlpretrain.report.charts import Chart, Level, draw_chart, format_number
from vlpretrain.report.headline import UNCHECKED, Baseline, Headline
from vlpretrain.report.records import RunRecord
from vlpretrain.report.values import count, mapping, number, percent, share

# A final figure is the mean over this share of the logged steps: one micro-batch says little.
FINAL_SHARE = 0.05

# One positive and two negatives a pair: predicting that prior leaves its entropy.
ITM_PRIOR_LOSS = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)

OBJECTIVE_NAMES = {
    "mim": "Masked image",
    "itm": "Image-text matching",
    "itc": "Image-text contrast",
    "mlm": "Masked words",
}
LEVEL_NAMES = {"mim": "mean colour"}
PROGRESS_FIGURES = ("lr", "samples_per_second", "grad_norm")
# The evaluator's own figures of chance: "val/chance_recall@1" belongs to "val/..._recall@1".
CHANCE = "val/chance_"
# Counters and sums that a curve says nothing about.
NOT_DRAWN = ("samples_seen", "seconds", "loss", *PROGRESS_FIGURES)
# What a run is judged by, among the figures of held-out samples.
HEADLINE_ENDINGS = ("accuracy", "recall@1", "top1")
MAX_CHARTS, MAX_HEADLINES = 40, 6
ACRONYMS = (*OBJECTIVE_NAMES, "vqa")
TITLES = {
    "loss": "Loss",
    "lr": "Learning rate",
    "samples_per_second": "Samples a second",
    "grad_norm": "Gradient norm",
}


@dataclass(frozen=True)
class LossRow:
    """An objective's loss, from first to last, beside what knowing nothing gives."""

    title: str
    first: str
    final: str
    held_out: str
    level: str
    level_label: str
    share_of_level: float | None  # final over level, 0 to 1, for the bar


@dataclass(frozen=True)
class Tile:
    """One figure of held-out samples."""

    title: str
    value: str
    level: str


def chance_levels(run: RunRecord) -> dict[str, float]:
    """Levels by figure, as the run itself gives them, else derived from its configuration."""
    levels = {"loss/itm": ITM_PRIOR_LOSS, "val/itm_accuracy": 0.5, **_measured_chance(run)}
    global_batch = count(mapping(run.config.get("train")).get("global_batch")) or 0
    if global_batch > 1:
        levels["loss/itc"] = math.log(global_batch)
    vocab_size = count(run.summary.get("vocab_size")) or 0
    if vocab_size > 1:
        levels["loss/mlm"] = math.log(vocab_size)
    for name, value in mapping(run.summary.get("chance")).items():
        level = number(value)
        if level is not None:
            levels[f"loss/{name}" if name in OBJECTIVE_NAMES else name] = level
    return levels


def _measured_chance(run: RunRecord) -> dict[str, float]:
    """Levels that the evaluator measured, for every figure whose name ends as theirs; an order that
    was changed by re-ranking is compared with the same chance."""
    found = {}
    for chance_name in (name for name in run.val if name.startswith(CHANCE)):
        level = run.val[chance_name].last_finite()
        ending = "_" + chance_name.removeprefix(CHANCE)
        for name in run.val:
            judged = "_" + name.removeprefix("val/").replace("reranked_", "")
            if judged.endswith(ending) and name != chance_name and level is not None:
                found[name] = level
    return found


def loss_rows(run: RunRecord, levels: dict[str, float]) -> tuple[LossRow, ...]:
    return tuple(_loss_row(run, name, levels.get(name)) for name in _loss_names(run))


def tiles(run: RunRecord, levels: dict[str, float]) -> tuple[Tile, ...]:
    """The last figures of held-out samples, but for the losses, which have their own table."""
    found = []
    for name, series in run.val.items():
        last = series.last_finite()
        if not name.startswith("val/") or name.startswith(("val/loss", CHANCE)) or last is None:
            continue
        level = levels.get(name)
        text = f"chance {_as_read(name, level)}" if level is not None else ""
        found.append(Tile(figure_title(name), _as_read(name, last), text))
    return tuple(found[:MAX_CHARTS])


def loss_charts(run: RunRecord, levels: dict[str, float]) -> tuple[Chart, ...]:
    """Every loss, and the sum of several."""
    names = _loss_names(run)
    has_sum = len(names) > 1 and "loss" in run.train
    charts = [_chart(run, name, levels) for name in names]
    if has_sum:
        charts.append(replace(_chart(run, "loss", levels), title="Sum of weighted losses"))
    return tuple(charts)


def progress_charts(run: RunRecord) -> tuple[Chart, ...]:
    return tuple(_chart(run, name, {}) for name in PROGRESS_FIGURES if name in run.train)


def other_charts(run: RunRecord, levels: dict[str, float]) -> tuple[Chart, ...]:
    """Whatever else was logged while training, and what was evaluated more than once."""
    trained = [n for n in run.train if n not in NOT_DRAWN and not n.startswith("loss/")]
    charts = [_chart(run, name, levels) for name in trained]
    for name, series in run.val.items():
        is_own = name.removeprefix("val/") not in run.train and not name.startswith(CHANCE)
        own_curve = name.startswith("val/") and is_own
        if own_curve and len(series.step) > 1:
            charts.append(draw_chart(figure_title(name), series, None, _level(name, levels)))
    return tuple(charts[:MAX_CHARTS])


def headlines(run: RunRecord, levels: dict[str, float]) -> tuple[Headline, ...]:
    """The held-out shares that a pretraining run is judged by, and their chance."""
    num = count(mapping(run.config.get("evaluation")).get("samples"))
    found = []
    for name, series in run.val.items():
        value = share(series.last_finite())
        if value is None or name.startswith(CHANCE) or not name.endswith(HEADLINE_ENDINGS):
            continue
        chance = share(levels.get(name))
        found.append(
            Headline(
                title=figure_title(name),
                value=value,
                num=f"up to {num:,} samples" if num else "",
                interval=None,
                baselines=(Baseline("chance", chance),) if chance is not None else (),
                overlap=UNCHECKED,
            )
        )
    return tuple(found[:MAX_HEADLINES])


def figure_title(name: str) -> str:
    """A figure's name as a heading: "loss/itm" -> "Image-text matching"."""
    if name in TITLES:
        return TITLES[name]
    plain = name.removeprefix("val/").removeprefix("loss/")
    if plain in OBJECTIVE_NAMES:
        return OBJECTIVE_NAMES[plain]
    words = plain.replace("_", " ").replace("/", " · ")
    for short in ACRONYMS:
        words = words.replace(short, short.upper())
    return words[:1].upper() + words[1:]


def _loss_names(run: RunRecord) -> list[str]:
    logged = [name for name in run.train if name.startswith("loss/")]
    known = [f"loss/{name}" for name in OBJECTIVE_NAMES]
    names = sorted(logged, key=lambda name: known.index(name) if name in known else len(known))
    return names[:MAX_CHARTS] or [name for name in ("loss",) if name in run.train]


def _loss_row(run: RunRecord, name: str, level: float | None) -> LossRow:
    series = run.train[name]
    final = series.last_finite(FINAL_SHARE)
    held_out = run.val[f"val/{name}"].last_finite() if f"val/{name}" in run.val else None
    left = min(1.0, max(0.0, final / level)) if final is not None and level else None
    return LossRow(
        title=figure_title(name),
        first=format_number(float(series.value[0])),
        final="" if final is None else format_number(final),
        held_out="" if held_out is None else format_number(held_out),
        level="" if level is None else format_number(level),
        level_label="" if level is None else _level_label(name),
        share_of_level=left,
    )


def _chart(run: RunRecord, name: str, levels: dict[str, float]) -> Chart:
    val = run.val.get(f"val/{name}")
    return draw_chart(figure_title(name), run.train[name], val, _level(name, levels))


def _level(name: str, levels: dict[str, float]) -> Level | None:
    return Level(levels[name], _level_label(name)) if name in levels else None


def _level_label(name: str) -> str:
    return LEVEL_NAMES.get(name.removeprefix("loss/"), "chance")


def _as_read(name: str, value: float) -> str:
    """Recalls and accuracies are shares: read as percent."""
    is_share = any(word in name for word in ("accuracy", "recall", "r@", "_r1", "_r5"))
    return percent(value) if is_share and 0 <= value <= 1 else format_number(value)
