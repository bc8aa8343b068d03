"""easy-VQA's real test split: accuracy and time over seeds, beside the question-only baseline.

    python -m tests.bench.easy_vqa --data FOLDER --work FOLDER [--init EXPORT] [--seeds 0 1 2]

FOLDER holds `train` and `test`, as `data_tools convert easy_vqa` writes them. A run that is done
already is taken as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench.runs import Run, last_figures, run_all, table, training_seconds

FIGURES = {
    "val/vqa_accuracy": "accuracy, %",
    "val/chance_question_only_accuracy": "question only, %",
    "val/chance_most_frequent_accuracy": "most frequent answer, %",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--init", default="", help="export that the runs start from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, a thread each")
    options, changes = parser.parse_known_args()
    runs = [
        Run(
            "finetune",
            "configs/easy_vqa.yaml",
            options.work / f"seed-{seed}",
            (
                *("--data.train", str(options.data / "train")),
                *("--data.val", str(options.data / "test")),
                *("--init", options.init, "--train.seed", str(seed)),
                *changes,
            ),
        )
        for seed in options.seeds
    ]
    run_all(runs, options.parallel)
    print(table({"easy-VQA, test split": [run.out for run in runs]}, FIGURES))
    for run in runs:
        accuracy = last_figures(run.out)["val/vqa_accuracy"]
        minutes = training_seconds(run.out) / 60
        print(f"{run.out.name}: {accuracy:.4f} after {minutes:.1f} min on one thread")


if __name__ == "__main__":
    main()
