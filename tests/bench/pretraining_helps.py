"""Does pretraining help, and does MIM? Same budget of fine-tuning, three starts, several seeds.

    python -m tests.bench.pretraining_helps easy_vqa --data FOLDER --work FOLDER
    python -m tests.bench.pretraining_helps flickr8k --data FOLDER --work FOLDER

Starts: all four objectives, the same without MIM, and random weights. One pretraining of each kind
serves all seeds of fine-tuning, so the intervals are over fine-tuning alone. A run that is done
already is taken as it is.

easy_vqa: FOLDER holds `scenes` (the embedded data set), `train` and `test`; 5 % of the training
questions are fine-tuned on. flickr8k: FOLDER holds `train` and `dev`; six epochs of pretraining
and two of fine-tuning, so that the whole takes half an hour on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.bench.runs import ROOT, Run, run_all, table

NO_MIM = ("--objectives.mim.weight", "0")
# Nothing else runs while MIM runs alone, so without it the others begin at once.
AT_ONCE = tuple(
    part for name in ("itm", "itc", "mlm") for part in (f"--objectives.{name}.schedule.start", "0")
)


def sizes(patch: int) -> tuple[str, ...]:
    """The model of configs/quickstart.yaml (patch 8) and flickr8k.yaml (16), for the start from
    random weights."""
    tower = {"name": "vit_tiny_patch16_224", "width": 128, "depth": 4, "heads": 4, "patch": patch}
    tower |= {"stem": "conv", "position": "conditional"}
    layers = {"depth": 3, "width": 128, "heads": 4}
    parts = {"vision": tower, "text": layers, "fusion": layers}
    fields = [
        (f"--model.{part}.{key}", str(value))
        for part in parts
        for key, value in parts[part].items()
    ]
    return ("--model.embed-dim", "128", *(word for field in fields for word in field))


@dataclass(frozen=True)
class Study:
    """What is pretrained on, what is fine-tuned, and which figures are compared."""

    pretraining: str
    pretraining_data: tuple[str, ...]
    without_mim: tuple[str, ...]
    finetuning: str
    finetuning_data: tuple[str, ...]
    from_random: tuple[str, ...]  # the model section of the pretraining, for random weights
    figures: dict[str, str]


def easy_vqa(data: Path) -> Study:
    share = data / "train-5-percent"
    if not share.is_dir():
        subset = ["subset", str(data / "train"), "--share", "0.05", "--of", "questions"]
        command = [sys.executable, "-m", "data_tools", *subset, "--out", str(share)]
        subprocess.run(command, check=True, cwd=ROOT)
    return Study(
        "configs/quickstart.yaml",
        ("--data.train", str(data / "scenes"), str(data / "train"), "--data.val"),
        (*NO_MIM, *AT_ONCE),
        "configs/easy_vqa.yaml",
        ("--data.train", str(share), "--data.val", str(data / "test"), "--train.epochs", "16"),
        ("--data.vocab-size", "400", *sizes(patch=8)),
        {
            "val/vqa_accuracy": "accuracy, %",
            "val/chance_question_only_accuracy": "question only, %",
        },
    )


def flickr8k(data: Path) -> Study:
    return Study(
        "configs/flickr8k.yaml",
        ("--data.train", str(data / "train"), "--train.epochs", "6"),
        NO_MIM,
        "configs/flickr8k_retrieval.yaml",
        (
            *("--data.train", str(data / "train"), "--data.val", str(data / "dev")),
            *("--train.epochs", "2", "--task.retrieval.k", "16"),
        ),
        ("--data.vocab-size", "4000", *sizes(patch=16)),
        {
            "val/image_to_text_recall@10": "R@10 image to text, %",
            "val/text_to_image_recall@10": "R@10 text to image, %",
            "val/image_to_text_reranked_recall@10": "re-ranked, image to text",
            "val/text_to_image_reranked_recall@10": "re-ranked, text to image",
        },
    )


STUDIES = {"easy_vqa": easy_vqa, "flickr8k": flickr8k}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, a thread each")
    options = parser.parse_args()
    study = STUDIES[options.study](options.data)
    pretrained = {
        "all four objectives": options.work / "pretrained",
        "without MIM": options.work / "pretrained-without-mim",
    }
    run_all(
        [
            Run("pretrain", study.pretraining, out, study.pretraining_data + changes)
            for out, changes in zip(pretrained.values(), ((), study.without_mim), strict=True)
        ],
        options.parallel,
    )
    starts = {name: ("--init", str(out / "export")) for name, out in pretrained.items()}
    starts["random weights"] = ("--init", "", *study.from_random)
    runs = {
        name: [
            Run(
                "finetune",
                study.finetuning,
                options.work / f"{name.replace(' ', '-')}-{seed}",
                (*study.finetuning_data, *start, "--train.seed", str(seed)),
            )
            for seed in options.seeds
        ]
        for name, start in starts.items()
    }
    run_all([run for group in runs.values() for run in group], options.parallel)
    print(table({name: [run.out for run in group] for name, group in runs.items()}, study.figures))


if __name__ == "__main__":
    main()
