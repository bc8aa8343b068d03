"""A question task of a few thousand parameters and rows for it, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from vlpretrain.data.questions import Answered, QuestionRecipe, QuestionRow, QuestionSettings
from vlpretrain.data.tokenise import Encoded
from vlpretrain.data.transforms import PictureSettings
from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.tasks.vqa import VqaTask
from vlpretrain.types import QuestionBatch

SIZE, WIDTH, MOST_TOKENS = 32, 16, 5
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "is", "it", "red", "blue", "green", "very"]
ANSWERS = ("red", "very blue", "green")
TEXTS = ("is it red", "is it very very blue", "it", "green is it")
Kind = Literal["classify", "decode"]


class Words:
    """A Tokeniser that knows WORDS."""

    vocab_size, pad_id, cls_id, mask_id = len(WORDS), 0, 2, None
    ordinary_ids = np.arange(4, len(WORDS))

    def encode(self, texts: Sequence[str], max_tokens: int | None = None) -> list[Encoded]:
        most = None if max_tokens is None else max_tokens - 2
        rows = [[2, *(WORDS.index(word) for word in text.split()[:most]), 3] for text in texts]
        return [Encoded(row, [None] * len(row)) for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(WORDS[token] for token in ids if token > 3)

    def save(self, folder: Any) -> None:
        raise NotImplementedError


def tiny_vqa(
    kind: Kind = "classify",
    loss: Literal["bce", "cross_entropy"] = "bce",
    num_pictures: int = 1,
    fusion: str = "cross",
) -> VqaTask:
    """Two layers each, 16 wide, without dropout, in training mode."""
    torch.manual_seed(0)
    model = create_model(
        ModelSpec(
            VisionSpec("vit_tiny_patch16_224", SIZE, SIZE, depth=2, width=WIDTH, heads=2, patch=8),
            TextSpec(vocab_size=len(WORDS), max_tokens=9, depth=2, width=WIDTH, heads=2, dropout=0),
            FusionSpec(fusion, depth=2, width=WIDTH, heads=2, dropout=0.0),
            embed_dim=8,
        )
    )
    tokens = tuple(tuple(text.ids) for text in Words().encode(ANSWERS))
    spec = AnswererSpec(
        kind,
        num_pictures,
        ANSWERS,
        exclusive=loss == "cross_entropy",
        dropout=0.0,
        heads=2,
        max_answer_tokens=MOST_TOKENS,
        start_id=2,
        end_id=3,
        answer_tokens=tokens,
    )
    task = VqaTask(model, Answerer(spec, WIDTH, len(WORDS)), loss)
    # New heads say nothing: larger weights make a wrong row visible in the losses.
    for parameter in task.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return task


def tiny_recipe(kind: Kind = "classify", num_pictures: int = 1) -> QuestionRecipe:
    settings = QuestionSettings(
        PictureSettings(image_size=SIZE),
        num_pictures,
        max_tokens=9,
        max_answer_tokens=MOST_TOKENS if kind == "decode" else 0,
    )
    index = {answer: place for place, answer in enumerate(ANSWERS)}
    return QuestionRecipe(Words(), settings, index, lambda _: {}, str)


def make_rows(num_rows: int = 8, num_pictures: int = 1, seed: int = 0) -> list[QuestionRow]:
    """Noise with 1 to 4 questions each; of the answers some are outside of the vocabulary."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(num_rows):
        pixels = random.integers(0, 256, (num_pictures, 3, SIZE, SIZE), dtype=np.uint8)
        texts = random.choice(TEXTS, size=1 + number % 4).tolist()
        answers = tuple(_answers(random) for _ in texts)
        rows.append(QuestionRow(f"a/{number}", tuple(torch.tensor(pixels)), tuple(texts), answers))
    return rows


def _answers(random: np.random.Generator) -> tuple[Answered, ...]:
    """Two answers that 3 and 7 of ten humans gave."""
    texts = random.permutation([*ANSWERS, "blue blue"])[:2].tolist()
    index = {answer: place for place, answer in enumerate(ANSWERS)}
    parts = zip(texts, (0.9, 1.0), (0.3, 0.7), strict=True)
    return tuple(Answered(text, index.get(text, -1), score, share) for text, score, share in parts)


def micro_batches(
    recipe: QuestionRecipe, rows: Sequence[QuestionRow], parts: int
) -> list[QuestionBatch]:
    """The rows in `parts` micro-batches, with the mean counts that the loop gives them."""
    size = len(rows) // parts
    batches = [recipe.collate(rows[part * size : (part + 1) * size]) for part in range(parts)]
    mean_counts = torch.stack([batch.counts for batch in batches]).mean(0)
    return [replace(batch, mean_counts=mean_counts) for batch in batches]
