"""Questions for the report: some answered right, some wrong, with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from vlpretrain.tasks.vqa_set import QuestionSet

if TYPE_CHECKING:
    from vlpretrain.tasks.vqa_evaluator import Answer

EXAMPLES = 12  # half of them wrong, where there are so many
EXPLAINED = 4


def choose_examples(
    questions: QuestionSet, scores: Sequence[float | None], wanted: int = EXAMPLES
) -> list[int]:
    """Question rows spread over the set: wrong ones first, then right ones; each sample once."""
    wrong = [row for row, score in enumerate(scores) if score is not None and score < 0.5]
    right = [row for row, score in enumerate(scores) if score is None or score >= 0.5]
    seen: set[int] = set()
    chosen: list[int] = []
    for rows, limit in ((wrong, wanted // 2), (right, wanted)):
        step = max(1, len(rows) // (4 * wanted))
        for row in rows[::step]:
            sample = questions.questions[row].sample
            if sample not in seen and len(chosen) < limit:
                seen.add(sample)
                chosen.append(row)
    return chosen


# PNG files of where the model looked, for one question's pictures: what vqa.json says of them.
DrawWords = Callable[[Tensor, str, Path, str], list[dict[str, str]]]


def write_examples(
    questions: QuestionSet,
    answers: Sequence[Answer],
    scores: Sequence[float | None],
    folder: Path,
    draw_words: DrawWords | None = None,
) -> list[dict[str, Any]]:
    """PNG files, and what vqa.json says of each; the first few also show where the model looked."""
    chosen = choose_examples(questions, scores)
    examples = [
        _example(questions, row, number, answers[row], scores[row], folder)
        for number, row in enumerate(chosen)
    ]
    if draw_words is not None:
        for number in _spread(len(chosen), EXPLAINED):
            question = questions.questions[chosen[number]]
            pixels_PCHW = questions.load_pixels([question.sample])
            words = draw_words(pixels_PCHW, question.text, folder, f"vqa-{number}")
            examples[number]["words"] = words
    return examples


def _spread(length: int, count: int) -> list[int]:
    return sorted({place * length // count for place in range(count)}) if length else []


def _example(
    questions: QuestionSet,
    row: int,
    number: int,
    answer: Answer,
    score: float | None,
    folder: Path,
) -> dict[str, Any]:
    question = questions.questions[row]
    names = []
    for place, pixels_CHW in enumerate(questions.load_pixels([question.sample])):
        names.append(f"vqa-{number}-{place}.png")
        picture = Image.fromarray(pixels_CHW.permute(1, 2, 0).contiguous().numpy())
        picture.save(folder / names[-1])
    return {
        "image": names[0] if len(names) == 1 else names,
        "question": question.text,
        "answers": list(question.answers),
        "prediction": answer.text,
        "accuracy": score,
        "top": [{"answer": text, "score": value} for text, value in answer.top],
    }
