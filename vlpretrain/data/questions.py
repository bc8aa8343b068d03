"""Pictures with their questions: records of shards to rows and micro-batches.

Shapes: I pictures, Q questions, P pictures of a question, R distinct texts of questions, T tokens
of a question, S distinct answers, L answer tokens.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vlpretrain.data.keyed import generator
from vlpretrain.data.sample import SampleError
from vlpretrain.data.tokenise import Tokeniser
from vlpretrain.data.transforms import PictureSettings, crop_pixels, sample_name
from vlpretrain.padding import pad_ids
from vlpretrain.types import COUNTS, QuestionBatch, Sample


@dataclass(frozen=True, slots=True)
class Question:
    """A question as its record holds it. Without answers it belongs to a test set."""

    text: str
    answers: tuple[str, ...]  # one for each human
    id: str | int
    type: str = ""
    answer_type: str = ""
    group: str = ""  # what a consistency is taken over


# Answers that score something, normalised, with the accuracy that giving them would have.
Score = Callable[[Sequence[str]], Mapping[str, float]]
Normalise = Callable[[str], str]

# Humans that weights which are no whole numbers are divided over.
SHARED_OVER = 10
MOST_HUMANS = 1000
_LARGEST_WEIGHT = 1e9


def read_questions(sample: Sample) -> list[Question]:
    """The questions of a record (`questions`, a list of objects).

    Raises:
        SampleError: they are not of the form that the documentation gives.
    """
    records = sample.metadata.get("questions", [])
    if not isinstance(records, list):
        raise SampleError(f".json `questions` is a {type(records).__name__}, not a list")
    return [
        _read_question(record, number, f"{sample.key}/{number}")
        for number, record in enumerate(records)
    ]


def _read_question(record: Any, number: int, name: str) -> Question:
    """`name` is the id of a question whose record gives none."""
    if not isinstance(record, dict) or not isinstance(record.get("question"), str):
        raise SampleError(f".json question {number} is no object with a text `question`")
    given = record.get("question_id")
    identity = given if isinstance(given, int | str) and given != "" else name
    return Question(
        text=record["question"].strip(),
        answers=_read_answers(record.get("answers", record.get("answer")), identity),
        id=identity,
        type=_name(record, "question_type"),
        answer_type=_name(record, "answer_type"),
        group=_name(record, "group"),
    )


def _name(record: dict[str, Any], field_name: str) -> str:
    value = record.get(field_name)
    return "" if value is None else sys.intern(str(value))


def _read_answers(answers: Any, identity: object) -> tuple[str, ...]:
    """A list of texts, one for each human; a text; or {answer: weight}.

    Weights are numbers of humans; where they are no whole numbers, shares of ten humans.
    """
    if answers is None:
        return ()
    if isinstance(answers, str):
        return (answers,)
    if isinstance(answers, list) and all(isinstance(answer, str) for answer in answers):
        # One copy of each: the same few answers come millions of times.
        return tuple(map(sys.intern, answers))
    if isinstance(answers, dict):
        return _weighted(answers, identity)
    raise SampleError(f".json question {identity}: `answers` is no list of texts, text or weights")


def _weighted(weights: dict[str, Any], identity: object) -> tuple[str, ...]:
    numbers = [_weight(weight, identity) for weight in weights.values()]
    total = sum(numbers)
    if total and not all(number.is_integer() for number in numbers):
        numbers = [number * SHARED_OVER / total for number in numbers]
    elif total > MOST_HUMANS:
        raise SampleError(f".json question {identity}: {total:g} answers, over {MOST_HUMANS:,}")
    return tuple(
        answer
        for answer, number in zip(weights, numbers, strict=True)
        # A small share is one human's.
        for _ in range(max(round(number), number > 0))
    )


def _weight(weight: Any, identity: object) -> float:
    if isinstance(weight, int | float) and 0 <= weight <= _LARGEST_WEIGHT:
        return float(weight)
    raise SampleError(
        f".json question {identity}: the weight {weight!r:.40} is no number from 0 to 1e9"
    )


@dataclass(frozen=True)
class QuestionSettings:
    """How a sample becomes a row of questions."""

    picture: PictureSettings
    num_pictures: int = 1  # that a question is about
    max_tokens: int = 40
    per_picture: int = 0  # questions of a picture in a step, chosen anew each epoch; 0: all
    max_answer_tokens: int = 0  # 0: answers are not tokenised
    blind: bool = False  # blank pictures: what the questions alone give away
    answered: bool = True  # questions without an answer make the sample unusable


@dataclass(frozen=True, slots=True)
class Answered:
    """One distinct answer of a question."""

    text: str  # as it is written
    index: int  # in the answer vocabulary, -1 outside of it
    score: float
    share: float


@dataclass(frozen=True, slots=True)
class QuestionRow:
    """One sample, prepared."""

    label: str  # "shard/key", for messages
    pixels: tuple[Tensor, ...]  # P pictures, uint8 [C, H, W] each
    questions: tuple[str, ...]
    answers: tuple[tuple[Answered, ...], ...]  # of each question


@dataclass(frozen=True)
class QuestionRecipe:
    """Pictures and questions to a QuestionBatch (loader.Recipe).

    Args:
        vocabulary: place of each normalised answer.
        score: normalised answers to the accuracy that giving them would have.
        normalise: of one answer.
        written: how a normalised answer is written, where that is another text.
    """

    tokeniser: Tokeniser
    settings: QuestionSettings
    vocabulary: Mapping[str, int]
    score: Score
    normalise: Normalise
    written: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.settings.picture.seed

    def row(self, sample: Sample, epoch: int, source: int) -> QuestionRow:
        """Raises SampleError: another number of pictures, no question, or one without an answer."""
        questions = self._chosen(read_questions(sample), sample, epoch)
        return QuestionRow(
            label=f"{sample.shard}/{sample.key}",
            pixels=question_pixels(sample, epoch, self.settings),
            questions=tuple(question.text for question in questions),
            answers=tuple(self._answers(question) for question in questions),
        )

    def _chosen(self, questions: list[Question], sample: Sample, epoch: int) -> list[Question]:
        if not questions:
            raise SampleError("no question")
        bare = [question.id for question in questions if not question.answers]
        if bare and self.settings.answered:
            raise SampleError(f"question {bare[0]} has no answer")
        wanted = self.settings.per_picture
        if not wanted or len(questions) <= wanted:
            return questions
        random = generator(self.seed, epoch, sample_name(sample), "questions")
        return [questions[place] for place in sorted(random.permutation(len(questions))[:wanted])]

    def _answers(self, question: Question) -> tuple[Answered, ...]:
        scores = self.score(question.answers) if question.answers else {}
        given = Counter(map(self.normalise, question.answers))
        total = max(1, sum(given.values()))
        return tuple(
            Answered(
                text=self.written.get(answer, answer),
                index=self.vocabulary.get(answer, -1),
                score=score,
                share=given[answer] / total,
            )
            for answer, score in scores.items()
        )

    def blank(self) -> QuestionRow:
        """Pictures without a question."""
        side = self.settings.picture.image_size
        black = torch.zeros(3, side, side, dtype=torch.uint8)
        return QuestionRow("", (black,) * self.settings.num_pictures, (), ())

    def collate(self, rows: Sequence[QuestionRow]) -> QuestionBatch:
        pictures = self.settings.num_pictures
        answers = [(one, place) for place, one in enumerate(_all_answers(rows))]
        flat = [(answer, question) for group, question in answers for answer in group]
        questions = [text for row in rows for text in row.questions]
        row_Q = [place for place, row in enumerate(rows) for _ in row.questions]
        text_row = {text: place for place, text in enumerate(dict.fromkeys(questions))}
        text_RT, valid_RT = self._tokens(list(text_row), self.settings.max_tokens)
        answer_SL, answer_valid_SL = self._tokens(
            [answer.text for answer, _ in flat], self.settings.max_answer_tokens
        )
        counts = torch.zeros(len(COUNTS))
        counts[COUNTS.index("images")] = sum(bool(row.questions) for row in rows)
        counts[COUNTS.index("questions")] = len(questions)
        first_Q1 = torch.tensor(row_Q, dtype=torch.int64).view(-1, 1) * pictures
        return QuestionBatch(
            pixels_ICHW=torch.stack([pixels for row in rows for pixels in row.pixels]),
            text_RT=text_RT,
            text_valid_RT=valid_RT,
            text_row_Q=torch.tensor([text_row[text] for text in questions], dtype=torch.int64),
            image_row_QP=first_Q1 + torch.arange(pictures),
            answer_question_S=torch.tensor([place for _, place in flat], dtype=torch.int64),
            answer_index_S=torch.tensor([one.index for one, _ in flat], dtype=torch.int64),
            answer_score_S=torch.tensor([one.score for one, _ in flat], dtype=torch.float32),
            answer_share_S=torch.tensor([one.share for one, _ in flat], dtype=torch.float32),
            answer_text_SL=answer_SL,
            answer_place_M=answer_valid_SL[:, 1:].flatten().nonzero().squeeze(1),
            counts=counts,
            mean_counts=counts.clone(),
            keys=tuple(row.label for row in rows),
        )

    def _tokens(self, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
        if not max_tokens or not texts:
            # One column at least: a tower reads no text of no length.
            return pad_ids([[self.tokeniser.pad_id]] * len(texts), self.tokeniser.pad_id)
        encoded = self.tokeniser.encode(texts, max_tokens)
        return pad_ids([text.ids for text in encoded], self.tokeniser.pad_id)

    def still(self) -> QuestionRecipe:
        picture = self.settings.picture.still()
        return replace(
            self, settings=replace(self.settings, picture=picture, per_picture=0, answered=False)
        )


def question_pixels(sample: Sample, epoch: int, settings: QuestionSettings) -> tuple[Tensor, ...]:
    """The pictures that a sample's questions are about, blank ones where the model is to be blind.

    Raises:
        SampleError: another number of pictures than a question needs, or a broken one.
    """
    wanted, side = settings.num_pictures, settings.picture.image_size
    if settings.blind:
        return (torch.zeros(3, side, side, dtype=torch.uint8),) * wanted
    if len(sample.images) != wanted:
        raise SampleError(
            f"{len(sample.images)} pictures where a question is about {wanted} (task.vqa.pictures)"
        )
    name = sample_name(sample)
    return tuple(
        crop_pixels(image, name if not number else f"{name}#{number}", epoch, settings.picture)
        for number, image in enumerate(sample.images[:wanted])
    )


def _all_answers(rows: Sequence[QuestionRow]) -> list[tuple[Answered, ...]]:
    return [answers for row in rows for answers in row.answers]
