"""Pretraining, fine-tuning for questions and evaluation, as their command lines say it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from engine_runs import as_one_rank
from finetune_runs import (
    data,
    evaluate,
    finetuned,
    launch,
    lines_of,
    losses_of,
    record_of,
    results_of,
    run,
)
from question_shards import BROKEN, ask, noise, png, write_shard

from data_tools.cli import main as data_tools
from vlpretrain import VLModel
from vlpretrain.cli.main import main
from vlpretrain.errors import UserError

CONFIG = """
data: {image_size: 32, vocab_size: 150, workers: 0}
model:
  embed_dim: 16
  vision: {name: vit_tiny_patch16_224, width: 32, depth: 1, heads: 2, patch: 8}
  text: {depth: 1, width: 32, heads: 2, dropout: 0.0}
  fusion: {depth: 2, width: 32, heads: 2}
objectives: {mim: {block: 8}}
train: {global_batch: 8, steps: 3, precision: fp32}
optim: {layer_decay: 0.8, head_lr: 2.0}
log: {every: 1, tensorboard: false}
evaluation: {samples: 0, batch: 4}
"""
VQA = ["--task.name", "vqa"]
DECODE = [*VQA, "--task.vqa.answer-with", "decode"]


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    with as_one_rank():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, shards, and a pretraining run in it."""
    home = tmp_path_factory.mktemp("finetune")
    (home / "run.yaml").write_text(CONFIG)
    for split, samples in (("train", "24"), ("val", "10")):
        size = ["--samples", samples, "--image-size", "32", "--split", split]
        assert data_tools(["synth", "--out", str(home / split), *size]) == 0
    run("pretrain", home, *data(home), "--train.steps", "2", "--out", str(home / "pre"))
    return home


@pytest.fixture(scope="module")
def classifier(home: Path) -> Path:
    return finetuned(home, "classifier", *VQA)


@pytest.fixture(scope="module")
def decoder(home: Path) -> Path:
    return finetuned(home, "decoder", *DECODE)


# --- what a run leaves ----------------------------------------------------------------------------


def test_a_classifier_is_trained_judged_and_asked(home: Path, classifier: Path) -> None:
    record = record_of(classifier)
    assert record["num_questions"] == len(results_of(classifier)) > 40
    assert record["vocabulary"]["coverage"] == 1.0
    assert record["baselines"]["question_only"]["accuracy"] > 0.2
    assert record["overlap"]["checked"]
    figures = lines_of(classifier, "val")[-1]
    assert figures["val/vqa_accuracy"] == record["accuracy"]
    summary = json.loads((classifier / "summary.json").read_text())
    assert 0 < summary["chance"]["vqa/accuracy"] < 1
    assert {"vqa/accuracy", "loss/vqa"} <= lines_of(classifier, "train")[0].keys()

    model = VLModel.from_pretrained(classifier / "export")
    picture = torch.zeros(3, 40, 50, dtype=torch.uint8)
    (answers,) = model.answer(picture, "what shape is it?", top=3)
    assert model.answerer is not None
    assert len(model.answerer.spec.answers) == record["vocabulary"]["size"]
    assert {one.answer for one in answers} <= set(model.answerer.spec.answers)
    assert [one.score for one in answers] == sorted((one.score for one in answers), reverse=True)


def test_a_decoder_is_trained_judged_and_asked(decoder: Path) -> None:
    assert record_of(decoder)["num_questions"] == len(results_of(decoder))
    model = VLModel.from_pretrained(decoder / "export")
    picture = torch.zeros(3, 40, 50, dtype=torch.uint8)
    assert model.answerer is not None
    names = model.answerer.spec.answers[:4]
    (written,) = model.answer(picture, "what shape is it?")
    (ranked,) = model.answer(picture, "what shape is it?", top=4, among=names)
    assert isinstance(written[0].answer, str)
    assert {one.answer for one in ranked} == set(names)


def test_what_no_question_reads_is_kept_in_the_export(home: Path, classifier: Path) -> None:
    before = load_file(home / "pre/export/model.safetensors")
    after = load_file(classifier / "export/model.safetensors")
    assert before.keys() == after.keys()
    unread = ("image_proj.weight", "text_proj.weight", "itm_head.weight", "vision.mask_token")
    assert all(torch.equal(before[name], after[name]) for name in unread)
    name = "fusion.norm.weight"
    assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize(
    ("name", "arguments"), [("classifier", VQA), ("decoder", [*DECODE, "--task.vqa.beams", "1"])]
)
def test_an_evaluation_repeats_the_figures_of_its_training(
    home: Path, name: str, arguments: list[str], request: pytest.FixtureRequest
) -> None:
    trained: Path = request.getfixturevalue(name)
    out = home / f"{name}-judged"
    evaluate(home, trained, out, *arguments)
    assert results_of(out) == results_of(trained)
    left_out = ("overlap", "examples")
    theirs, ours = record_of(trained), record_of(out)
    assert {k: v for k, v in ours.items() if k not in left_out} == {
        k: v for k, v in theirs.items() if k not in left_out
    }
    assert ours["overlap"]["pictures"] == theirs["overlap"]["pictures"]
    assert (out / "report.html").is_file()


def test_a_decoder_can_be_judged_by_its_list(home: Path, decoder: Path) -> None:
    out = home / "ranked"
    evaluate(home, decoder, out, *DECODE, "--task.vqa.evaluate", "rank")
    model = VLModel.from_pretrained(decoder / "export")
    assert model.answerer is not None
    assert {row["answer"] for row in results_of(out)} <= set(model.answerer.spec.answers)


def test_an_evaluation_into_a_trainings_folder_stands_beside_it(
    home: Path, classifier: Path
) -> None:
    before = (classifier / "metrics.jsonl").read_text()
    for _ in range(2):
        evaluate(home, classifier, classifier, *VQA)
    beside = home / "classifier-evaluation"
    assert (classifier / "metrics.jsonl").read_text() == before
    assert len(lines_of(beside, "val")) == 1
    assert record_of(beside)["accuracy"] == record_of(classifier)["accuracy"]


def test_without_its_training_data_an_evaluation_has_no_baselines(
    home: Path, classifier: Path
) -> None:
    moved = home / "moved"
    shutil.copytree(classifier / "export", moved / "export")
    training = json.loads((moved / "export/training.json").read_text())
    assert training["task"] == "vqa"
    assert training["sources"] == [str(home / "train")]
    # That of the pretraining, which starts at 0.07 and learns.
    assert 0.06 < training["temperature"] < 0.08
    training["sources"] = [str(home / "gone"), "s3://bucket/gone"]
    (moved / "export/training.json").write_text(json.dumps(training))
    evaluate(home, moved, home / "moved-judged", *VQA)
    record = record_of(home / "moved-judged")
    assert record["baselines"] == {}
    assert record["vocabulary"]["coverage"] is None
    assert record["overlap"]["checked"] is False
    assert record["accuracy"] == record_of(classifier)["accuracy"]


# --- going on -------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_alike_with_its_own_answers(home: Path) -> None:
    often = [*VQA, "--train.steps", "4", "--checkpoint.every", "2"]
    whole = finetuned(home, "whole", *often)
    stopped = home / "stopped"
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints/step-4")
    shutil.rmtree(stopped / "export")
    # Only a new run would make its answers anew.
    finetuned(home, "stopped", *often, "--task.vqa.top-answers", "20")
    assert losses_of(stopped) == losses_of(whole)
    assert len(losses_of(whole)) == 4
    ours, theirs = (load_file(run / "export/model.safetensors") for run in (stopped, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize(("name", "task"), [("classifier", VQA), ("decoder", DECODE)])
def test_evaluations_in_between_change_nothing(
    home: Path, name: str, task: list[str], request: pytest.FixtureRequest
) -> None:
    """Nor do their pictures of where the model looked, which take a gradient."""
    undisturbed: Path = request.getfixturevalue(name)
    looking = finetuned(home, f"looking-{name}", *task, "--evaluation.every", "1")
    assert len(lines_of(looking, "val")) == 3
    assert any(example.get("words") for example in record_of(looking)["examples"])
    assert losses_of(looking) == losses_of(undisturbed)
    assert results_of(looking) == results_of(undisturbed)


def test_a_new_run_makes_its_answers_anew(home: Path, classifier: Path) -> None:
    folder = home / "anew"
    folder.mkdir()
    shutil.copy(classifier / "answers.json", folder)
    finetuned(home, "anew", *VQA, "--task.vqa.top-answers", "20", "--train.steps", "1")
    assert record_of(folder)["vocabulary"]["size"] == 20
    assert 0.5 < record_of(folder)["vocabulary"]["coverage"] < 1


def test_a_fine_tuned_model_is_fine_tuned_further(home: Path, classifier: Path) -> None:
    again = finetuned(
        home, "again", *VQA, "--init", str(classifier / "export"), "--optim.lr", "1e-9"
    )
    assert record_of(again)["accuracy"] == pytest.approx(record_of(classifier)["accuracy"])
    assert losses_of(again)[0] < losses_of(classifier)[0]
    assert record_of(again)["vocabulary"] == record_of(classifier)["vocabulary"]


def test_another_picture_size(home: Path) -> None:
    out = finetuned(home, "larger", *VQA, "--data.image-size", "48", "--train.steps", "1")
    assert VLModel.from_pretrained(out / "export").vision.image_size == 48
    with pytest.raises(UserError, match="does not divide") as caught:
        finetuned(home, "odd", *VQA, "--data.image-size", "36")
    assert (caught.value.where, caught.value.fix) == (
        "data.image_size",
        "an image_size of 40, or any multiple of 8",
    )


# --- two pictures ---------------------------------------------------------------------------------


def test_sentences_about_two_pictures(home: Path, tmp_path: Path) -> None:
    """Whether the left picture is the brighter one, as NLVR2 puts it."""
    for split in ("train", "val"):
        records, pictures = {}, {}
        for number in range(12):
            left, right = (200, 20) if number % 2 else (20, 200)
            said = [ask("the left one is bright", ["true" if number % 2 else "false"], group="a")]
            records[f"{split}{number}"] = {"questions": said}
            pictures[f"{split}{number}"] = [png(left), png(right)]
        write_shard(tmp_path / split / "0.tar", records, pictures)
    pair = [*VQA, "--task.vqa.pictures", "2", "--task.vqa.loss", "cross_entropy"]
    model = ["--init", str(home / "pre/export"), "--out", str(tmp_path / "run")]
    run("finetune", home, *data(tmp_path), *model, *pair, "--optim.lr", "3e-3")
    record = record_of(tmp_path / "run")
    assert record["num_questions"] == 12
    assert record["consistency"]["n"] == 1
    assert [len(example["image"]) for example in record["examples"]] == [2] * 12
    assert record["vocabulary"] == {"size": 2, "coverage": 1.0}
    asked = VLModel.from_pretrained(tmp_path / "run/export")
    both = [torch.zeros(3, 32, 32, dtype=torch.uint8)] * 2
    (answers,) = asked.answer(both, "the left one is bright", top=2)
    assert {one.answer for one in answers} == {"true", "false"}
    assert sum(one.score for one in answers) == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(UserError, match="fine-tuned with 2, the configuration says 1"):
        evaluate(home, tmp_path / "run", tmp_path / "judged", *VQA)


# --- mistakes -------------------------------------------------------------------------------------


def test_a_model_of_another_task_is_not_judged(home: Path, classifier: Path) -> None:
    with pytest.raises(UserError, match=r"trained for 'pretrain'.*judged by 'vqa'") as caught:
        evaluate(home, home / "pre", home / "refused", *VQA)
    assert f"finetune CONFIG --init {home / 'pre/export'}" in caught.value.fix
    with pytest.raises(UserError, match="trained for 'vqa'"):
        evaluate(home, classifier, home / "refused", "--task.name", "retrieval")
    with pytest.raises(UserError, match="heads of its pretraining"):
        evaluate(home, home / "pre", home / "refused")
    with pytest.raises(UserError, match=r"answer_with: the model was .* classify, .* decode"):
        evaluate(home, classifier, home / "refused", *DECODE)
    assert not (home / "refused/metrics.jsonl").exists()
    assert not (home / "refused/evaluation").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "fitting"),
    [("pretrain", VQA, "finetune"), ("finetune", [], "pretrain")],
)
def test_a_command_runs_its_own_tasks(
    home: Path, command: str, arguments: list[str], fitting: str
) -> None:
    with pytest.raises(UserError, match=r"task\.name") as caught:
        run(command, home, *data(home), *arguments)
    assert f"vlpretrain {fitting} CONFIG" in caught.value.fix


def test_too_few_answers_stop_a_run_before_it_leaves_anything(home: Path) -> None:
    with pytest.raises(UserError, match=r"the 1 answers .* under 50 %; there are") as caught:
        finetuned(home, "narrow", *VQA, "--task.vqa.top-answers", "1")
    assert "raise task.vqa.top_answers" in caught.value.fix
    kept = {path.name for path in (home / "narrow").iterdir()}
    assert kept <= {"tokenizer", "checkpoints"}
    assert not list((home / "narrow/checkpoints").iterdir())
    # A decoder needs no list to answer.
    finetuned(home, "narrow", *DECODE, "--task.vqa.top-answers", "1", "--train.steps", "1")


def test_a_training_question_without_an_answer_is_named(home: Path, tmp_path: Path) -> None:
    bare = {"questions": [ask("what?", ["a cat"]), ask("why?", [], question_id=77)]}
    write_shard(tmp_path / "0.tar", {"a": bare}, {})
    with pytest.raises(UserError, match="1 training questions have no answer: 77") as caught:
        finetuned(home, "bare", *VQA, "--data.train", str(tmp_path))
    assert caught.value.where == "data.train"


def test_answers_that_a_fine_tuned_model_does_not_know(
    home: Path, classifier: Path, tmp_path: Path
) -> None:
    write_shard(tmp_path / "0.tar", {"a": {"questions": [ask("who?", ["Ada Lovelace"])]}}, {})
    start = ["--init", str(classifier / "export"), "--data.train", str(tmp_path)]
    with pytest.raises(UserError, match=r"answer 0\.0 % of the training questions") as caught:
        finetuned(home, "unknown", *VQA, *start)
    assert caught.value.where == "init"


def test_a_held_out_picture_that_cannot_be_seen_is_said(
    home: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = {name: {"questions": [ask("what is it?", ["red"])]} for name in ("a", "b")}
    write_shard(tmp_path / "val/0.tar", records, {"a": [noise()], "b": [BROKEN]})
    evaluate(home, classifier, tmp_path / "out", *VQA, "--data.val", str(tmp_path / "val"))
    (skip,) = record_of(tmp_path / "out")["skipped"]
    assert skip["key"] == "b"
    assert f"1 held-out samples could not be used as they are:\n  {skip['shard']}/b" in (
        capsys.readouterr().out
    )


def test_doctor_looks_at_a_fine_tune(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = ["--init", str(home / "pre/export")]
    for task in (VQA, DECODE):
        assert main(["doctor", str(home / "run.yaml"), *data(home), *start, *task]) == 0
        said = capsys.readouterr().out
        assert "answers: " in said
        assert "no problem found" in said


# --- several processes ----------------------------------------------------------------------------


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stage", "task"),
    [
        pytest.param("1", VQA, id="classify-zero1"),
        pytest.param("3", DECODE, id="decode-zero3", marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_and_judge_alike(home: Path, stage: str, task: list[str]) -> None:
    still = ["--model.fusion.dropout", "0", "--task.vqa.dropout", "0", *task]
    alone = finetuned(home, f"alone-{stage}", *still)
    out = home / f"two-{stage}"
    shared = ["--processes", "2", "--out", str(out)]
    start = [*data(home), "--init", str(home / "pre/export")]
    sharded = ["--deepspeed.zero-stage", stage, "--evaluation.every", "2"]
    launch("finetune", home, *start, *shared, *sharded, *still)
    assert losses_of(out) == pytest.approx(losses_of(alone), rel=1e-4)
    assert results_of(out) == results_of(alone)
    assert record_of(out)["accuracy"] == record_of(alone)["accuracy"]
    init = ["--init", str(out / "export"), "--data.val", str(home / "val")]
    launch("evaluate", home, *init, *shared, *task)
    assert results_of(home / f"two-{stage}-evaluation") == results_of(alone)
