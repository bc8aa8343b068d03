"""The answer vocabulary: which answers of the training questions a classifier chooses among."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlpretrain.data.held_out import read_texts
from vlpretrain.data.questions import Question, Score, read_questions
from vlpretrain.data.reader import ShardReader
from vlpretrain.data.sample import SampleError
from vlpretrain.data.shards import Source
from vlpretrain.errors import UserError
from vlpretrain.types import Skip

NAMED = 5


@dataclass(frozen=True)
class AnswerVocabulary:
    """The most frequent answers, the most frequent first."""

    answers: tuple[str, ...]  # normalised
    written: tuple[str, ...]  # each as the humans write it
    coverage: float | None  # see `coverage_of`; None where no training question is known
    num_questions: int

    @property
    def index(self) -> dict[str, int]:
        return {answer: place for place, answer in enumerate(self.answers)}

    def save(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> AnswerVocabulary:
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            tuple(content["answers"]),
            tuple(content["written"]),
            content["coverage"],
            content["num_questions"],
        )


def training_questions(sources: Sequence[Source]) -> Iterator[Question]:
    """The questions of all samples; samples without any, and broken ones, are passed over."""
    reader, skips = ShardReader(sources), list[Skip]()
    for _, sample in read_texts(sources, reader, skips):
        try:
            yield from read_questions(sample)
        except SampleError:
            continue
    reader.close()


def build_vocabulary(
    questions: Sequence[Question],
    score: Score,
    written_forms: Callable[[Iterable[Sequence[str]]], Mapping[str, str]],
    *,
    top: int,
    min_count: int,
    min_coverage: float,
) -> AnswerVocabulary:
    """Counts which answer answers each question best (all of them, where several do).

    Args:
        score: a question's answers to the accuracy that each would have.
        written_forms: the questions' answers to how each is written.
        top: answers kept; 0: all.
        min_count: questions that an answer must answer best.

    Raises:
        UserError: no question, a question without answer, or a coverage under `min_coverage`.
    """
    scored = _scores(questions, score)
    counts: Counter[str] = Counter()
    for scores in scored:
        best = max(scores.values())
        counts.update(answer for answer, value in scores.items() if value == best)
    kept = [answer for answer, count in counts.items() if count >= min_count]
    # Ties in the order of the alphabet: the same vocabulary whatever the order of the shards.
    kept.sort(key=lambda answer: (-counts[answer], answer))
    answers = tuple(kept[:top] if top else kept)
    coverage = _coverage(answers, scored)
    if coverage < min_coverage:
        raise UserError(
            f"{_said(answers, coverage, min_coverage)}; there are {len(counts):,} distinct answers",
            where="task.vqa.top_answers",
            fix="raise task.vqa.top_answers, lower task.vqa.min_count, or take "
            "task.vqa.answer_with: decode, which writes any answer",
        )
    forms = written_forms(question.answers for question in questions)
    written = tuple(forms.get(answer, answer) for answer in answers)
    return AnswerVocabulary(answers, written, coverage, len(scored))


def coverage_of(
    answers: Sequence[str], questions: Iterable[Question], score: Score, min_coverage: float
) -> float:
    """What the best of some normalised answers score, as a share of what the best answers of all
    score, over training questions.

    Raises:
        UserError: no question, a question without answer, or under `min_coverage`.
    """
    coverage = _coverage(answers, _scores(questions, score))
    if coverage < min_coverage:
        raise UserError(
            _said(answers, coverage, min_coverage) + "; the model that the run starts from was "
            "fine-tuned with other answers",
            where="init",
            fix="a pretrained model: the vocabulary is then made of these questions",
        )
    return coverage


def _scores(questions: Iterable[Question], score: Score) -> list[Mapping[str, float]]:
    scored, bare = [], []
    for question in questions:
        scores = score(question.answers) if question.answers else {}
        if scores:
            scored.append(scores)
        else:
            bare.append(str(question.id))
    if bare:
        more = f" and {len(bare) - NAMED} more" if len(bare) > NAMED else ""
        raise UserError(
            f"{len(bare)} training questions have no answer: {', '.join(bare[:NAMED])}{more}",
            where="data.train",
            fix="convert the shards anew with their annotations, or leave those questions out",
        )
    if not scored:
        raise UserError(
            "no sample has a question",
            where="data.train",
            fix="shards of `data_tools convert`, or `questions` in the JSON beside each picture",
        )
    return scored


def _coverage(answers: Sequence[str], scored: Sequence[Mapping[str, float]]) -> float:
    known = frozenset(answers)
    reached = sum(max((v for a, v in one.items() if a in known), default=0.0) for one in scored)
    return reached / sum(max(one.values()) for one in scored)


def _said(answers: Sequence[str], coverage: float, wanted: float) -> str:
    return (
        f"the {len(answers):,} answers of the vocabulary answer {100 * coverage:.1f} % of the "
        f"training questions, under {100 * wanted:g} %"
    )
