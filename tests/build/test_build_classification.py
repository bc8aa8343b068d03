"""Which classes a run knows, which head it goes on with, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from labelled_shards import write_labelled

from vlpretrain.build.classification import ClassificationKit
from vlpretrain.build.data import build_tokeniser, open_sources
from vlpretrain.config.check import problems
from vlpretrain.config.schema import (
    CheckpointConfig,
    DataConfig,
    FusionConfig,
    ModelConfig,
    RunConfig,
    TextConfig,
    VisionConfig,
)
from vlpretrain.config.task_schema import ClassificationConfig, TaskConfig
from vlpretrain.errors import UserError

COLOURS = ["red", "green", "blue"]
CONFIG = RunConfig(
    task=TaskConfig("classification"),
    data=DataConfig(image_size=16),
    model=ModelConfig(
        vision=VisionConfig("vit_tiny_patch16_224", width=16, depth=1, heads=2, patch=8),
        text=TextConfig(depth=1, width=16, heads=2),
        fusion=FusionConfig(depth=1, width=16, heads=2),
        embed_dim=8,
    ),
)


def kit_of(
    folder: Path,
    labels: list | None = None,
    val: list | None = None,
    judging: bool = False,
    init: str = "",
    **choices: object,
) -> ClassificationKit:
    """Of shards with these labels, in run `folder`/run."""
    specs = {}
    for name, given in (("train", labels), ("val", val)):
        if given is not None:
            specs[name] = (str(write_labelled(folder / name, given)),)
    settings = ClassificationConfig(**choices)  # type: ignore[arg-type]
    task = replace(CONFIG.task, classification=settings)
    config = replace(CONFIG, task=task, data=replace(CONFIG.data, **specs), init=init)
    sources = open_sources(config.data.train, config.data)
    run = folder / "run"
    run.mkdir(parents=True, exist_ok=True)
    tokeniser = build_tokeniser(config, sources)
    return ClassificationKit(config, sources, tokeniser, run, judging)


def export(folder: Path, labels: list | None = None, **choices: object) -> str:
    kit = kit_of(folder, labels or COLOURS, **choices)
    task = kit.task()
    torch.nn.init.normal_(task.classifier.head.weight)
    kit.tokeniser.save(folder / "run" / "tokenizer")
    kit.save(task, task.state_dict(), folder / "export")
    return str(folder / "export")


def test_classes_are_the_labels_of_the_training_samples(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, ["red", "blue", "red", None, "broken"])
    assert kit.classes == ("blue", "red")
    assert json.loads((tmp_path / "run" / "classes.json").read_text()) == {
        "classes": ["blue", "red"]
    }
    assert kit_of(tmp_path / "numbers", [10, 9, 0]).classes == ("0", "9", "10")


def test_classes_of_the_configuration_keep_their_order(tmp_path: Path) -> None:
    assert kit_of(tmp_path, COLOURS, classes=("red", "blue", "green")).classes[0] == "red"


def test_a_resumed_run_keeps_its_classes_and_a_new_one_does_not(tmp_path: Path) -> None:
    assert kit_of(tmp_path, COLOURS).classes == ("blue", "green", "red")
    # Without a checkpoint the run begins anew, whatever an earlier start has left.
    assert kit_of(tmp_path, ["red", "green"]).classes == ("green", "red")
    checkpoint(tmp_path)
    kit = kit_of(tmp_path, COLOURS)
    assert kit.classes == ("green", "red")
    from_elsewhere = replace(
        kit.config, checkpoint=CheckpointConfig(resume=str(checkpoint(tmp_path)))
    )
    other = tmp_path / "other"
    other.mkdir()
    there = ClassificationKit(from_elsewhere, kit.sources, kit.tokeniser, other)
    assert there.classes == ("green", "red")
    with pytest.raises(UserError, match=r"begun with 2 classes, the configuration names 3.*blue"):
        kit_of(tmp_path, COLOURS, classes=tuple(COLOURS)).classes  # noqa: B018


def checkpoint(folder: Path) -> Path:
    step = folder / "run" / "checkpoints" / "step-1"
    step.mkdir(parents=True, exist_ok=True)
    return step


def test_samples_without_labels_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 of 3 samples are of no class\n  3: no label") as found:
        kit_of(tmp_path, [None] * 3).classes  # noqa: B018
    assert found.value.where == "data.train"
    kit = kit_of(tmp_path / "val", COLOURS, val=["red", "purple", "purple"])
    with pytest.raises(UserError, match=r"2: label 'purple' is none of the 3") as found:
        kit.evaluator()
    assert found.value.where == "data.val"


def test_a_few_held_out_samples_of_no_class_are_counted(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, COLOURS, val=["red", *COLOURS * 10, "purple", "broken"])
    figures = kit.evaluator()(kit.task(), tmp_path / "evaluation")
    record = json.loads((tmp_path / "evaluation" / "classification.json").read_text())
    assert record["num_images"] == 31
    assert record["num_left_out"] == 2
    assert figures["val/chance_top1"] == 11 / 31
    reasons = [skip.reason for skip in kit.unusable]
    assert reasons[0] == "label 'purple' is none of the 3 classes"
    assert len(reasons) == 2


def test_chance_is_that_of_the_number_of_classes(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, COLOURS)
    levels = kit.chance(kit.task(), None)
    assert levels["loss/classification"] == pytest.approx(1.0986, abs=1e-4)
    assert levels["classification/accuracy"] == pytest.approx(1 / 3)


def test_a_head_is_kept_where_classes_and_kind_are_the_same(tmp_path: Path) -> None:
    init = export(tmp_path / "first")
    head = kit_of(tmp_path / "first", judging=True, init=init).task().classifier.head.weight
    same = kit_of(tmp_path / "same", COLOURS, init=init, drop=0.5).task().classifier
    assert torch.equal(same.head.weight, head)
    assert same.spec.dropout == 0.5
    for number, (labels, choices) in enumerate(
        [(["red", "blue"], {}), (COLOURS, {"pool": "patches"}), (COLOURS, {"mode": "linear_probe"})]
    ):
        kit = kit_of(tmp_path / str(number), labels, init=init, **choices)
        assert not kit.keeps_head
        assert kit.task().classifier.head.weight.std() < 0.1  # new, the other's is 1


def test_judging_takes_classes_and_head_of_the_export(tmp_path: Path) -> None:
    init = export(tmp_path / "first", mode="linear_probe", pool="patches")
    kit = kit_of(
        tmp_path / "judged",
        ["red", "blue"],
        judging=True,
        init=init,
        mode="linear_probe",
        pool="patches",
    )
    assert kit.classes == ("blue", "green", "red")
    assert kit.task().classifier.head.weight.std() > 0.5
    assert not (tmp_path / "judged" / "run" / "classes.json").exists()


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, "trained with linear_probe, the configuration says finetune"),
        ({"mode": "linear_probe", "pool": "patches"}, "trained with tower, .* says patches"),
        (
            {"mode": "linear_probe", "classes": ("red", "blue")},
            "fine-tuned with 3 classes, the configuration names 2; not in both: green",
        ),
        (
            {"mode": "linear_probe", "classes": ("red", "blue", "green")},
            "names 3, in another order",
        ),
    ],
)
def test_another_classifier_than_asked_for_is_refused(
    tmp_path: Path, choices: dict, expected: str
) -> None:
    init = export(tmp_path / "first", mode="linear_probe")
    kit = kit_of(tmp_path / "judged", judging=True, init=init, **choices)
    with pytest.raises(UserError, match=expected):
        kit.classes  # noqa: B018


def test_a_model_without_classifier_is_refused(tmp_path: Path) -> None:
    init = export(tmp_path / "first")
    (tmp_path / "first" / "export" / "classifier.json").unlink()
    kit = kit_of(tmp_path / "judged", judging=True, init=init)
    with pytest.raises(UserError, match="the model has no classifier"):
        kit.classes  # noqa: B018


def test_neighbours_need_no_classifier(tmp_path: Path) -> None:
    init = export(tmp_path / "first")
    (tmp_path / "first" / "export" / "classifier.json").unlink()
    kit = kit_of(
        tmp_path / "judged",
        COLOURS * 4,
        COLOURS,
        judging=True,
        init=init,
        mode="knn",
        neighbours=3,
    )
    figures = kit.evaluator()(kit.task(), tmp_path / "evaluation")
    assert figures["val/top1"] == 1.0


def test_names_that_are_numbers_can_not_be_read(tmp_path: Path) -> None:
    init = export(tmp_path / "first")
    kit = kit_of(tmp_path / "a", val=[0, 1, 2], judging=True, init=init, mode="zero_shot")
    with pytest.raises(UserError, match=r"numbers \(0, 1, 2\): there is no name to read"):
        kit.evaluator()
    names = ("a_red thing", "green", "blue")
    kit = kit_of(
        tmp_path / "b", val=[0, 1, 2], judging=True, init=init, mode="zero_shot", classes=names
    )
    figures = kit.evaluator()(kit.task(), tmp_path / "evaluation")
    assert 0 <= figures["val/top1"] <= 1


def test_what_trains_nothing_can_not_be_trained() -> None:
    for mode in ("knn", "zero_shot"):
        settings = ClassificationConfig(mode=mode)  # type: ignore[arg-type]
        task = TaskConfig("classification", classification=settings)
        config = replace(CONFIG, task=task, data=DataConfig(train=("a",)))
        assert "trains nothing" in str(problems(config)[0])


def test_without_a_text_a_tokenizer_spells_where_nothing_is_read(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, COLOURS)
    (text,) = kit.tokeniser.encode(["dog 7?"])
    unknown = kit.tokeniser.encode(["é"])[0].ids[1]
    assert unknown not in text.ids
    assert kit.tokeniser.decode(text.ids).replace(" ", "") == "dog7?"
    reading = replace(kit.config, task=TaskConfig("pretrain"))
    with pytest.raises(UserError, match="no caption to train a tokenizer on"):
        build_tokeniser(reading, kit.sources)
    objectives = reading.objectives
    only_mim = replace(
        objectives,
        **{n: replace(getattr(objectives, n), weight=0.0) for n in ("itm", "itc", "mlm")},
    )
    tokeniser = build_tokeniser(replace(reading, objectives=only_mim), kit.sources)
    assert tokeniser.vocab_size == kit.tokeniser.vocab_size
