"""Run folders as the loop, the evaluators and the command line leave them, with made-up content."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

COLOURS = {"red": (200, 70, 60), "blue": (60, 120, 180), "green": (80, 150, 90)}
SHAPES = ("circle", "square", "triangle")


class Tags(HTMLParser):
    """Tag and attribute names, and every address that a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.addresses: list[str] = []
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def made_up_chain(folder: Path) -> list[Path]:
    """Pretraining, then VQA and then retrieval, each from the run before."""
    pretrain = pretrain_run(folder / "pretrain")
    vqa = task_run(folder / "vqa", "vqa", init=str(pretrain / "export"), seed=1)
    write_vqa(vqa / "evaluation")
    write_attention(vqa / "evaluation")
    retrieval = task_run(folder / "retrieval", "retrieval", init=str(vqa / "export"), seed=2)
    write_retrieval(retrieval / "evaluation")
    return [pretrain, vqa, retrieval]


def pretrain_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    chance = {"mim": 0.25, "itm": 0.6365, "itc": 3.4657, "mlm": 7.3132}
    write_metrics(folder / "metrics.jsonl", chance)
    write_origin(folder, "pretrain", {"loss/mim": 0.25, "loss/mlm": 7.3132})
    write_pretraining(folder / "evaluation")
    return folder


def task_run(folder: Path, task: str, init: str = "", seed: int = 0) -> Path:
    """A fine-tune without an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    losses = {"vqa": {"vqa": 3.2}, "retrieval": {"itc": 3.5, "itm": 0.64}}
    write_metrics(folder / "metrics.jsonl", losses.get(task, {task: 2.3}), held_out=False)
    write_origin(folder, "finetune", {}, task=task, init=init, seed=seed)
    (folder / "evaluation").mkdir(exist_ok=True)
    return folder


def write_metrics(path: Path, starts: dict[str, float], held_out: bool = True) -> None:
    noise = np.random.default_rng(0)
    lines = []
    for step in range(10, 410, 10):
        left = np.exp(-3 * step / 400)
        loss = {
            f"loss/{n}": s * (0.2 + 0.8 * left) * (1 + 0.08 * noise.normal())
            for n, s in starts.items()
        }
        record = {"step": step, "samples_seen": 32 * step, "seconds": 0.7 * step, **loss}
        record |= {"lr": 3e-4 * min(1, step / 40), "samples_per_second": 45 + noise.normal()}
        record |= {"loss": sum(loss.values()), "grad_norm": 1 + 4 * left}
        lines.append(record)
        if held_out and step % 100 == 0:
            figures = {"val/itm_accuracy": 0.99 - 0.3 * left}
            for way in ("image_to_text", "text_to_image"):
                figures[f"val/{way}_recall@1"] = 0.45 * (1 - left)
                figures[f"val/{way}_recall@5"] = 0.8 * (1 - left)
            figures |= {"val/chance_recall@1": 0.005, "val/chance_recall@5": 0.025}
            figures |= {f"val/{name}": 1.05 * value for name, value in loss.items()}
            lines.append({"step": step, "split": "val", **figures})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_origin(
    folder: Path,
    command: str,
    chance: dict[str, float],
    task: str = "",
    init: str = "",
    seed: int = 0,
) -> None:
    """config.yaml, environment.json and summary.json."""
    config: dict[str, Any] = {"out": str(folder), "init": init}
    config |= {"train": {"global_batch": 32, "seed": seed}, "evaluation": {"samples": 200}}
    config |= {"task": {"name": task}} if task else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    versions = {"torch": "2.14.1", "deepspeed": "0.19.2", "timm": "1.0.22"}
    environment = {"commit": "1a2b3c4d", "python": "3.11.9", "versions": versions}
    environment |= {"devices": ["x86_64"], "ranks": 2}
    (folder / "environment.json").write_text(json.dumps(environment))
    source = {"source": "data/train", "shards": 4, "samples": 8000, "gigabytes": 0.021}
    summary = {
        "command": [
            "./launch.sh",
            command,
            f"configs/{folder.name}.yaml",
            "--out",
            f"runs/{folder.name}",
        ],
        "chance": chance,
        "data": {"samples": 8000, "steps_per_epoch": 250.0, "sources": [source]},
        "parameters": {"vision": 5_500_000, "text": 3_100_000, "fusion": 2_400_000},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def write_pretraining(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    triplets = [
        {
            kind: scene(folder, f"{n}-{kind}.png", n, kind)
            for kind in ("original", "masked", "reconstructed")
        }
        for n in range(6)
    ]
    pairs = [
        {
            "image": f"{n % 6}-original.png",
            "caption": caption(n % 6 if n % 3 else n + 1),
            "score": 1 - n / 13,
            "matched": n % 3 != 2,
        }
        for n in range(12)
    ]
    write_json(folder / "evaluation.json", {"reconstructions": triplets, "pairs": pairs})


def write_vqa(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    types = [
        ("what colour", 812, 0.84),
        ("how many", 403, 0.61),
        ("is there", 540, 0.93),
        ("what shape", 245, 0.77),
    ]
    content = {
        "num_questions": 2000,
        "accuracy": 0.8113,
        "interval": [0.7941, 0.8280],
        "by_question_type": [kind(*one) for one in types],
        "by_answer_type": [
            kind("other", 1057, 0.825),
            kind("yes/no", 540, 0.93),
            kind("number", 403, 0.61),
        ],
        "baselines": {
            "question_only": {"accuracy": 0.4630, "interval": [0.4412, 0.4846]},
            "most_frequent": {"accuracy": 0.2705, "interval": [0.2510, 0.2900]},
        },
        "vocabulary": {"size": 28, "coverage": 0.998},
        "consistency": None,
        "examples": [vqa_example(folder, n) for n in range(9)],
        "results_file": "vqa_results.json",
        "overlap": None,
    }
    write_json(folder / "vqa.json", content | changes)


def kind(name: str, num: int, accuracy: float) -> dict[str, Any]:
    half = 1.96 * (accuracy * (1 - accuracy) / num) ** 0.5
    return {
        "name": name,
        "n": num,
        "accuracy": accuracy,
        "interval": [accuracy - half, min(1, accuracy + half)],
    }


def vqa_example(folder: Path, n: int) -> dict[str, Any]:
    colours = list(COLOURS)
    answer, right = colours[n % 3], n % 3 != 2
    said = answer if right else colours[(n + 1) % 3]
    scores = [0.91, 0.05, 0.02, 0.01, 0.005]
    rest = [one for one in (*colours, "yes", "2", "no") if one != said]
    words = f"what colour is the {SHAPES[n % 3]}".split()
    return {
        "image": scene(folder, f"vqa-{n}.png", n),
        "question": " ".join(words) + "?",
        "answers": [answer] * 8 + ["dark " + answer] * 2,
        "prediction": said,
        "accuracy": 1.0 if right else 0.0,
        "top": [{"answer": a, "score": s} for a, s in zip([said, *rest], scores, strict=False)],
        "words": [
            {"word": word, "image": scene(folder, f"vqa-{n}-{place}.png", n, "attended", place)}
            for place, word in enumerate(words)
        ]
        if n % 2 == 0
        else [],
    }


def write_retrieval(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    ways = {"image_to_text": (0.472, 0.641), "text_to_image": (0.391, 0.553)}
    curve = [
        (0, 0.472, 0.391, 0.4),
        (4, 0.561, 0.472, 1.2),
        (16, 0.622, 0.534, 3.9),
        (64, 0.638, 0.551, 15.1),
        (128, 0.641, 0.553, 30.3),
    ]
    content = {
        "num_images": 1000,
        "num_texts": 5000,
        "captions_per_image": 5.0,
        "tie_rule": "a wrong candidate with the same score stands before a right one.",
        "directions": {
            way: {"dual": stage(dual), "reranked": stage(reranked) | {"k": 128}}
            for way, (dual, reranked) in ways.items()
        },
        "chance": {way: {"recall@1": 0.001, "recall@5": 0.005, "recall@10": 0.01} for way in ways},
        "curve": [
            {"k": k, "image_to_text": i, "text_to_image": t, "seconds": s} for k, i, t, s in curve
        ],
        "examples": {
            "image_to_text": [texts_example(folder, n) for n in range(4)],
            "text_to_image": [images_example(folder, n) for n in range(4)],
        },
        "overlap": {
            "checked": True,
            "sources": ["data/train"],
            "pictures": 12,
            "captions": 1,
            "of": 1000,
            "note": "",
        },
    }
    write_json(folder / "retrieval.json", content | changes)


def stage(recall: float) -> dict[str, Any]:
    return {
        "recall@1": recall,
        "recall@5": min(1, recall + 0.25),
        "recall@10": min(1, recall + 0.33),
        "median_rank": 2.0,
        "interval@1": [recall - 0.031, recall + 0.031],
    }


def texts_example(folder: Path, n: int) -> dict[str, Any]:
    texts = [
        {"text": caption(n + m), "score": 0.97 - 0.11 * m, "right": m == n % 3} for m in range(5)
    ]
    return {"image": scene(folder, f"query-{n}.png", n), "rank": n % 3 + 1, "texts": texts}


def images_example(folder: Path, n: int) -> dict[str, Any]:
    images = [
        {
            "image": scene(folder, f"found-{n + m}.png", n + m),
            "score": 0.95 - 0.13 * m,
            "right": m == n % 2,
        }
        for m in range(5)
    ]
    return {"text": caption(n), "rank": n % 2 + 1, "images": images}


def write_classification(folder: Path, classes: int = 6, **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    examples = [
        {
            "image": scene(folder, f"class-{n}.png", n),
            "label": names[n],
            "top": [
                {"name": names[(n + m + (n % 4 == 3)) % 9], "score": 0.8 / 2**m} for m in range(5)
            ],
        }
        for n in range(6)
    ]
    content = {
        "mode": "linear_probe",
        "num_images": 900,
        "num_classes": classes,
        "top1": 0.742,
        "interval": [0.713, 0.770],
        "top5": 0.968,
        "chance": {"top1": 1 / classes, "top5": min(1, 5 / classes)},
        "per_class": [
            {
                "name": names[n] if n < 9 else f"class {n}",
                "n": 100,
                "accuracy": 0.5 + 0.45 * n / classes,
            }
            for n in range(classes)
        ],
        "examples": examples,
        "overlap": {
            "checked": True,
            "sources": ["data/train"],
            "pictures": 0,
            "captions": 0,
            "of": 900,
            "note": "",
        },
    }
    write_json(folder / "classification.json", content | changes)


def write_attention(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    examples = []
    for n in range(3):
        words = caption(n).split()
        maps = [
            {
                "word": word,
                "image": scene(folder, f"attention-{n}-{place}.png", n, "attended", place),
            }
            for place, word in enumerate(words)
        ]
        picture = scene(folder, f"attention-{n}.png", n)
        examples.append(
            {"image": picture, "text": caption(n), "answer": None, "score": 0.98, "words": maps}
        )
    write_json(folder / "attention.json", {"examples": examples} | changes)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def caption(n: int) -> str:
    colours = list(COLOURS)
    below = f"{colours[(n + 1) % 3]} {SHAPES[(n + 2) % 3]}"
    return f"a {colours[n % 3]} {SHAPES[n % 3]} above a small {below}"


def scene(folder: Path, name: str, n: int, kind: str = "original", place: int = 0) -> str:
    """Writes a small picture and returns its name: whole, masked, reconstructed or attended."""
    image = Image.new("RGB", (96, 96), (240, 236, 224))
    draw = ImageDraw.Draw(image)
    colours = list(COLOURS.values())
    x = 24 + 7 * (n % 7)
    draw.ellipse((x, 12, x + 34, 46), fill=colours[n % 3])
    draw.rectangle((x + 4, 62, x + 24, 82), fill=colours[(n + 1) % 3])
    pixels = np.asarray(image).copy()
    if kind == "masked":
        hidden = np.random.default_rng(n).random((3, 3)) < 0.6
        pixels[np.kron(hidden, np.ones((32, 32), bool))] = 128
    if kind == "attended":
        row, column = np.mgrid[:96, :96]
        heat = np.exp(-((column - x - 17) ** 2 + (row - 20 - 9 * place) ** 2) / 500)[..., None]
        pixels = (pixels * (1 - 0.6 * heat) + np.array([255, 60, 0]) * 0.6 * heat).astype(np.uint8)
    image = Image.fromarray(pixels)
    if kind == "reconstructed":
        image = image.resize((14, 14)).resize((96, 96))
    image.save(folder / name)
    return name
