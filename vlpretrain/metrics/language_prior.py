"""Answers without looking: what the training questions alone tell about an answer.

The two baselines beside which an accuracy is to be read (Goyal et al. 2017 name the problem): one
knows how often an answer is right, the other the question too. Neither sees a picture.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlpretrain.metrics.vqa import (
    Answers,
    question_words,
    soft_scores,
    vqa_accuracy,
    written_forms,
)

Words = tuple[str, ...]

# Sums of the same scores in another order differ in their last digits; a tie stays a tie.
_TIE = 1e-6
_AFTER_ALL_WORDS = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and what was answered, without its picture."""

    question: str
    answers: Answers


class MostFrequentAnswer:
    """One answer to everything: the one that would score highest on the training questions.

    Ties go to the first in the alphabet.
    """

    def __init__(self, training: Iterable[Asked]) -> None:
        training = list(training)
        totals = _sum(soft_scores(asked.answers) for asked in training)
        self.best = _Ranking(totals, training).best(totals)

    def answer(self, question: str) -> str:
        return self.best


class QuestionOnly:
    """The best answer to the training questions that begin most alike.

    First those of the very same words, case and marks aside; else those that share the longest
    beginning of whole words; at last all of them. Ties go to the answer that scores higher over all
    questions, then to the first in the alphabet.
    """

    def __init__(self, training: Iterable[Asked]) -> None:
        training = list(training)
        scores: dict[Words, dict[str, float]] = {}
        for asked in training:
            _add(scores.setdefault(question_words(asked.question), {}), soft_scores(asked.answers))
        self.scores = scores
        self.questions = sorted(scores)
        self.ranking = _Ranking(_sum(scores.values()), training)
        self.best_of_beginning: dict[Words, str] = {}

    def answer(self, question: str) -> str:
        words = question_words(question)
        if words in self.scores:
            return self.ranking.best(self.scores[words])
        beginning = self._longest_shared(words)
        if beginning not in self.best_of_beginning:
            self.best_of_beginning[beginning] = self.ranking.best(self._sum_over(beginning))
        return self.best_of_beginning[beginning]

    def _longest_shared(self, words: Words) -> Words:
        """In sorted order, the neighbours share the longest beginnings."""
        place = bisect_left(self.questions, words)
        neighbours = self.questions[max(0, place - 1) : place + 1]
        return words[: max(_num_shared(words, neighbour) for neighbour in neighbours)]

    def _sum_over(self, beginning: Words) -> dict[str, float]:
        first = bisect_left(self.questions, beginning)
        last = bisect_left(self.questions, (*beginning, _AFTER_ALL_WORDS))
        return _sum(self.scores[question] for question in self.questions[first:last])


@dataclass(frozen=True, slots=True)
class PriorScores:
    """The accuracy of each held-out question, in their order."""

    question_only: NDArray[np.float64]
    most_frequent: NDArray[np.float64]


def score_priors(training: Iterable[Asked], held_out: Sequence[Asked]) -> PriorScores:
    """Both baselines, fitted on the one and scored on the other by the official accuracy.

    For figures by group see `interval.grouped_accuracy`.
    """
    training = list(training)
    return PriorScores(
        question_only=_accuracies(QuestionOnly(training), held_out),
        most_frequent=_accuracies(MostFrequentAnswer(training), held_out),
    )


class _Ranking:
    """Which of several answers to give, and how to write it.

    Args:
        totals: each answer's score, over all training questions.
    """

    def __init__(self, totals: Mapping[str, float], training: Sequence[Asked]) -> None:
        if not totals:
            raise ValueError("a baseline needs at least one training question")
        self.totals = totals
        self.forms = written_forms(asked.answers for asked in training)

    def best(self, scores: Mapping[str, float]) -> str:
        for candidates in (scores, self.totals):
            most = max(candidates[answer] for answer in scores) - _TIE
            scores = {answer: scores[answer] for answer in scores if candidates[answer] > most}
        answer = min(scores)
        return self.forms.get(answer, answer)


def _sum(scores_of_questions: Iterable[Mapping[str, float]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for scores in scores_of_questions:
        _add(totals, scores)
    return totals


def _add(totals: dict[str, float], scores: Mapping[str, float]) -> None:
    for answer, score in scores.items():
        totals[answer] = totals.get(answer, 0.0) + score


def _num_shared(left: Words, right: Words) -> int:
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


def _accuracies(
    predictor: QuestionOnly | MostFrequentAnswer, held_out: Sequence[Asked]
) -> NDArray[np.float64]:
    return np.array(
        [vqa_accuracy(predictor.answer(asked.question), asked.answers) for asked in held_out]
    )
