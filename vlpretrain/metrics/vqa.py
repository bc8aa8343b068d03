"""Visual question answering: the official VQA accuracy (Antol et al. 2015; Goyal et al. 2017).

The rules, quirks included, are those that the official evaluation shows by its figures; the tests
compare with them. One quirk matters to who trains a model: an answer that all humans gave alike is
compared as it is written. There "none" is right and its normalised form, "0", is wrong; elsewhere
both are right. `written_forms` says how to spell an answer.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypedDict

# What humans answered, one entry each; or answers with the score that each of them gets.
Answers = Sequence[str] | Mapping[str, float]

OTHER_QUESTIONS = "none of the above"  # the official name for a question of no type

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
# The official pattern means to spare any full stop beside a digit, and spares those before one.
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0"} | {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
}
# Where an apostrophe may stand, by what follows it. Left out are the contractions that read as
# another word without it (its, well, shed), and those with a capital I: what they are looked up by
# is in lower case.
_ENDINGS = {
    "n't": "ai are ca could did do does had has have is might must need ought sha should was were "
    "wo would",
    "n't've": "could had might should would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "'ll": "how it somebody someone something they what who why y'all you",
    "'re": "there they what why you",
    "'s": "he how somebody someone that there what when where who why",
}
_OTHERS = "ma'am o'clock 'ow's'at 'twas y'all"
_WORD = re.compile(r"[\w'-]+")
_NUMBER = re.compile(r"\d*\.?\d+")


def vqa_accuracy(prediction: str, answers: Answers) -> float:
    """The official accuracy of one prediction, 0 to 1.

    It is the mean over the sets that leave one human out of min(1, matches / 3). Fewer than four
    humans, which the official evaluation never meets, make sets of fewer than three, and the 3 is
    the set's size then: so up to four humans the accuracy is the share of them that agrees. For a
    single answer it is 1 or 0.

    Text is normalised where the humans disagree, and where only one was asked.

    Args:
        answers: any number from 1; or the score of each answer, for data that names scores.
    """
    if isinstance(answers, Mapping):
        return soft_scores(answers).get(normalise_answer(prediction), 0.0)
    said, truths = _on_one_line(prediction), [_on_one_line(answer) for answer in _checked(answers)]
    if _is_unanimous(truths):
        return float(said == truths[0])
    return _agreement([normalise_answer(truth) for truth in truths], normalise_answer(said))


def soft_scores(answers: Answers) -> dict[str, float]:
    """What each distinct normalised answer is worth, 0 to 1: a training target.

    Answers that become equal when normalised count together; given scores are added up, to 1.
    """
    if isinstance(answers, Mapping):
        scores: dict[str, float] = {}
        for answer, score in answers.items():
            key = normalise_answer(answer)
            scores[key] = min(1.0, scores.get(key, 0.0) + score)
        return scores
    num_answers = len(_checked(answers))
    counts = Counter(map(normalise_answer, answers))
    return {answer: _worth(count, num_answers) for answer, count in counts.items()}


def written_forms(answers_of_questions: Iterable[Answers]) -> dict[str, str]:
    """How to write a normalised answer: as the humans most often did when they all agreed.

    Only then does the spelling count. An answer that is missing here is written as it is. Ties go
    to the first in the alphabet.
    """
    counts: dict[str, Counter[str]] = {}
    for answers in answers_of_questions:
        if not isinstance(answers, Mapping) and _is_unanimous(answers):
            text = _on_one_line(answers[0])
            counts.setdefault(normalise_answer(text), Counter())[text] += 1
    return {
        answer: min(forms, key=lambda form: (-forms[form], form))
        for answer, forms in counts.items()
    }


@lru_cache(maxsize=1 << 18)
def normalise_answer(text: str) -> str:
    """An answer as the official evaluation compares it: lower case, digits, few marks."""
    words = [
        _NUMBERS.get(word, word) for word in _without_marks(_on_one_line(text)).lower().split()
    ]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def question_type_of(question: str, types: Collection[str] | None = None) -> str:
    """The longest of `types` that the question begins with, word by word.

    Args:
        types: beginnings in lower case (a set is faster); None for the first two words.
    """
    words = question_words(question)
    if types is None:
        return " ".join(words[:2]) or OTHER_QUESTIONS
    beginnings = (" ".join(words[:length]) for length in range(len(words), 0, -1))
    return next((beginning for beginning in beginnings if beginning in types), OTHER_QUESTIONS)


def question_words(question: str) -> tuple[str, ...]:
    """A question's words in lower case, without marks."""
    return tuple(map(sys.intern, _WORD.findall(question.lower())))


def answer_type_of(answer: str) -> str:
    """yes/no, number or other, for data that doesn't name it."""
    normalised = normalise_answer(answer)
    if normalised in ("yes", "no"):
        return "yes/no"
    return "number" if _NUMBER.fullmatch(normalised) else "other"


class ResultsRecord(TypedDict):
    """One entry of the list that the official server reads."""

    question_id: int | str
    answer: str


def results_record(question_id: int | str, answer: str) -> ResultsRecord:
    return {"question_id": question_id, "answer": answer}


def _checked(answers: Sequence[str]) -> Sequence[str]:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"answers must be a list of at least one answer, not {answers!r}")
    return answers


def _is_unanimous(answers: Sequence[str]) -> bool:
    """True where the official evaluation compares the texts as they are written."""
    return len(answers) > 1 and len({_on_one_line(answer) for answer in answers}) == 1


def _on_one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _agreement(truths: Sequence[str], said: str) -> float:
    return _worth(truths.count(said), len(truths))


def _worth(num_matches: int, num_answers: int) -> float:
    """The leave-one-out mean of min(1, matches / min(3, num_answers - 1)), in closed form.

    With m matches of n >= 4, m of the sets have m - 1 and the others m: the mean is
    m (n - 1) / 3n up to m = 3, and 1 from m = 4. With n < 4 it is m / n.
    """
    return min(1.0, num_matches * max(3, num_answers - 1) / (3 * num_answers))


def _without_marks(text: str) -> str:
    """A mark is deleted where one of its kind touches a space, else it becomes a space.

    A comma between two digits has all marks of the text deleted.
    """
    if _COMMA_IN_NUMBER.search(text):
        spaced = ""
    else:
        spaced = "".join(m for m in _PUNCTUATION if f"{m} " not in text and f" {m}" not in text)
    marks = str.maketrans(spaced, " " * len(spaced), "".join(set(_PUNCTUATION) - set(spaced)))
    return _FULL_STOP.sub("", text.translate(marks), count=_MOST_FULL_STOPS)


def _contractions() -> dict[str, str]:
    """Contractions that lack one apostrophe, each with its full form."""
    full = _OTHERS.split()
    full += [stem + ending for ending, stems in _ENDINGS.items() for stem in stems.split()]
    table = {
        word[:place] + word[place + 1 :]: word
        for word in full
        for place, letter in enumerate(word)
        if letter == "'"
    }
    # The official table has this one the wrong way round.
    return table | {"somebody'd": "somebodyd"}


_CONTRACTIONS = _contractions()
