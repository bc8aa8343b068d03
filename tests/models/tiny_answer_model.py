"""A tiny model with a tokenizer, and answerers for it."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from vlpretrain.models.answerer import Answerer, AnswererSpec
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "is", "it", "red", "blue", "green", "very"]
ANSWERS = ("red", "very blue", "green")
QUESTIONS = ["is it red", "is it very very blue", "it", "is it red"]
WIDTH = 32
KINDS = ("cross", "merged", "concat")


def model_spec(fusion: str = "cross") -> ModelSpec:
    return ModelSpec(
        VisionSpec("vit_tiny_patch16_224", 32, depth=1, width=48, heads=3),
        TextSpec(vocab_size=len(WORDS), max_tokens=8, depth=1, width=WIDTH, heads=2),
        FusionSpec(fusion, depth=2, width=WIDTH, heads=2, dropout=0.0),
        embed_dim=16,
    )


def answerer_spec(kind: str, num_pictures: int = 1) -> AnswererSpec:
    ids = tuple((2, *(WORDS.index(word) for word in text.split()), 3) for text in ANSWERS)
    return AnswererSpec(
        kind=kind,
        num_pictures=num_pictures,
        answers=ANSWERS,
        dropout=0.0,
        depth=2,
        heads=2,
        max_answer_tokens=5,
        start_id=2,
        end_id=3,
        pad_id=0,
        answer_tokens=ids,
    )


def make_answerer(kind: str, num_pictures: int = 1, seed: int = 0) -> Answerer:
    """In evaluation mode, with weights that make answers differ."""
    torch.manual_seed(seed)
    answerer = Answerer(answerer_spec(kind, num_pictures), WIDTH, len(WORDS)).eval()
    for parameter in answerer.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return answerer


def save_tokenizer(folder: Path) -> None:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
