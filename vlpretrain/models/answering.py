"""Questions about pictures, from files and words to answers: what `VLModel.answer` does.

Shapes: I pictures, R texts, Q questions, P pictures a question, A answers of a list, N image
tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.models.answer_decoder import frame_answer
from vlpretrain.models.answer_search import cut_at_end
from vlpretrain.models.answerer import NUM_BEAMS, Answerer, QuestionStates
from vlpretrain.models.inputs import Picture, TextReader, as_list, load_pixels
from vlpretrain.padding import pad_ids

if TYPE_CHECKING:
    from vlpretrain.models.vlmodel import VLModel

# What a model reads with one question: a picture, or several.
Images = Picture | Sequence[Picture] | Tensor


class ScoredAnswer(NamedTuple):
    """An answer, and how likely the model takes it to be right, 0 to 1."""

    answer: str
    score: float


Choose = Callable[[QuestionStates], list[list[ScoredAnswer]]]


def answer_questions(
    model: VLModel,
    images: Images | Sequence[Images],
    questions: Sequence[str],
    top: int,
    batch_size: int,
    among: Sequence[str] | None,
) -> list[list[ScoredAnswer]]:
    """See VLModel.answer; the model is in evaluation mode."""
    answerer, reader = _parts(model)
    rows = _picture_rows(images, answerer.spec.num_pictures, len(questions))
    choose = _chooser(answerer, reader, top, among)
    answers: list[list[ScoredAnswer]] = []
    seen: dict[Hashable, Tensor] = {}
    for start in range(0, len(questions), batch_size):
        part = slice(start, start + batch_size)
        seen = _see(model, rows[part], seen)
        answers += choose(_read(model, answerer, reader, questions[part], rows[part], seen))
    return answers


def _parts(model: VLModel) -> tuple[Answerer, TextReader]:
    if model.answerer is None:
        raise UserError(
            "the model answers no questions: it was loaded without an answerer.json",
            where="answer",
            fix="fine-tune it for VQA first",
        )
    if model.reader is None:
        raise UserError(
            "the model has no tokenizer",
            where="answer",
            fix="load it by VLModel.from_pretrained from a folder with tokenizer files",
        )
    return model.answerer, model.reader


def _picture_rows(
    images: Images | Sequence[Images], num_pictures: int, num_questions: int
) -> list[list[Picture]]:
    """The pictures of each question."""
    items: list[Any] = as_list(images)  # type: ignore[arg-type]
    rows = [as_list(item) for item in items]
    if num_pictures > 1 and rows and all(len(row) == 1 for row in rows):
        rows = [[picture for row in rows for picture in row]]
    wrong = [len(row) for row in rows if len(row) != num_pictures]
    if wrong:
        raise UserError(
            f"{wrong[0]} pictures for a question",
            where="answer",
            fix=f"{num_pictures} for each: as many as the model was fine-tuned with",
        )
    if len(rows) not in (1, num_questions):
        raise UserError(
            f"pictures for {len(rows)} questions, {num_questions} questions",
            where="answer",
            fix="pictures for each question, or for one",
        )
    return rows * num_questions if len(rows) == 1 else rows


def _see(
    model: VLModel, rows: Sequence[Sequence[Picture]], seen: Mapping[Hashable, Tensor]
) -> dict[Hashable, Tensor]:
    """Image tokens [N, D] of the rows' distinct pictures; those that were seen before stay."""
    pictures = {_identity(picture): picture for row in rows for picture in row}
    new = {key: picture for key, picture in pictures.items() if key not in seen}
    tokens = dict(seen)
    if new:
        pixels_ICHW = load_pixels(list(new.values()), model.vision.image_size)
        states = model.vision(pixels_ICHW.to(_device(model)))
        tokens |= zip(new, states.token_BND, strict=True)
    return {key: tokens[key] for key in pictures}


def _identity(picture: Picture) -> Hashable:
    return str(picture) if isinstance(picture, (str, Path)) else id(picture)


def _device(model: VLModel) -> torch.device:
    return model.image_proj.weight.device


def _read(
    model: VLModel,
    answerer: Answerer,
    reader: TextReader,
    questions: Sequence[str],
    rows: Sequence[Sequence[Picture]],
    seen: Mapping[Hashable, Tensor],
) -> QuestionStates:
    """Every question with its pictures; equal questions are one text."""
    device = _device(model)
    text_row = {question: row for row, question in enumerate(dict.fromkeys(questions))}
    image_row = {key: row for row, key in enumerate(seen)}
    text_RT, valid_RT = (part.to(device) for part in reader.read(list(text_row)))
    return answerer.states(
        model,
        image_IND=torch.stack(list(seen.values())),
        text_RTD=model.text(text_RT, valid_RT).token_BTD,
        text_valid_RT=valid_RT,
        image_row_QP=torch.tensor(
            [[image_row[_identity(picture)] for picture in row] for row in rows], device=device
        ),
        text_row_Q=torch.tensor([text_row[question] for question in questions], device=device),
    )


def _chooser(
    answerer: Answerer, reader: TextReader, top: int, among: Sequence[str] | None
) -> Choose:
    if top < 1:
        raise UserError(f"the {top} best answers", where="answer top", fix="at least 1")
    if among is not None and not among:
        raise UserError("no answer to choose from", where="answer among", fix="a list, or None")
    if answerer.decoder is None:
        return _choose_class(answerer, top, among)
    if among is None:
        return _write(answerer, reader, top)
    return _choose_ranked(answerer, reader, top, among)


def _choose_class(answerer: Answerer, top: int, among: Sequence[str] | None) -> Choose:
    names = answerer.spec.answers if among is None else tuple(among)
    unknown = sorted(set(names) - set(answerer.spec.answers))
    if unknown:
        raise UserError(
            f"{unknown[0]!r} is none of the {len(answerer.spec.answers)} answers that the model "
            "chooses among",
            where="answer among",
            fix="answers of model.answerer.spec.answers",
        )
    column_A = torch.tensor([answerer.spec.answers.index(name) for name in names])

    def choose(states: QuestionStates) -> list[list[ScoredAnswer]]:
        score_QA = answerer.answer_scores(states)[:, column_A.to(states.state_QTD.device)]
        best = score_QA.topk(min(top, len(names)), dim=1)
        return _named(names, best.indices, best.values)

    return choose


def _choose_ranked(
    answerer: Answerer, reader: TextReader, top: int, among: Sequence[str]
) -> Choose:
    text_AL, valid_AL = _tokens(answerer, reader, among)

    def choose(states: QuestionStates) -> list[list[ScoredAnswer]]:
        device = states.state_QTD.device
        ranking = answerer.rank(states, text_AL.to(device), valid_AL.to(device))
        return _named(among, ranking.index_QK[:, :top], ranking.log_likelihood_QK[:, :top])

    return choose


def _write(answerer: Answerer, reader: TextReader, top: int) -> Choose:
    special = answerer.spec.special

    def choose(states: QuestionStates) -> list[list[ScoredAnswer]]:
        written = answerer.write(states, num_beams=max(top, NUM_BEAMS))
        answers = []
        for text_KL, score_K in zip(
            written.text_QKL.tolist(), written.log_likelihood_QK.exp().tolist(), strict=True
        ):
            likeliest: dict[str, float] = {}
            # Several ways to part a word into pieces may spell one answer.
            for ids, score in zip(text_KL, score_K, strict=True):
                likeliest.setdefault(reader.write(cut_at_end(ids, special)), score)
            answers.append([ScoredAnswer(*item) for item in likeliest.items()][:top])
        return answers

    return choose


def _tokens(answerer: Answerer, reader: TextReader, among: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids [A, L] of answers, and where they are real."""
    spec = answerer.spec
    text_AT, valid_AT = reader.read(among)
    rows = [
        frame_answer(text_T[valid_T].tolist(), spec.special)
        for text_T, valid_T in zip(text_AT, valid_AT, strict=True)
    ]
    for name, row in zip(among, rows, strict=True):
        if len(row) > spec.max_answer_tokens:
            raise UserError(
                f"{name!r} has {len(row)} tokens, start and end included",
                where="answer among",
                fix=f"answers of at most {spec.max_answer_tokens}",
            )
    return pad_ids(rows, spec.pad_id)


def _named(
    names: Sequence[str], index_QK: Tensor, log_score_QK: Tensor
) -> list[list[ScoredAnswer]]:
    return [
        [ScoredAnswer(names[index], score) for index, score in zip(row, scores, strict=True)]
        for row, scores in zip(index_QK.tolist(), log_score_QK.exp().tolist(), strict=True)
    ]
