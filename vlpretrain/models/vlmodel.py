"""The whole model: two towers, the fusion and the heads; and its use from Python.

Shapes: B pictures or texts, P pairs, D width, E embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.errors import UserError
from vlpretrain.models.answerer import Answerer
from vlpretrain.models.answering import Images, ScoredAnswer, answer_questions
from vlpretrain.models.classifier import Classifier, ScoredClass, best_classes
from vlpretrain.models.fusion import Fusion, FusionPairs
from vlpretrain.models.inputs import Picture, TextReader, as_list, load_pixels
from vlpretrain.models.layers import init_weights
from vlpretrain.models.spec import ModelSpec
from vlpretrain.models.text import TextStates, TextTower
from vlpretrain.models.vision import VisionStates, VisionTower
from vlpretrain.models.weights import WeightReport

Item = TypeVar("Item")


class VLModel(nn.Module):
    """A vision-language model.

    Training calls its parts (`vision`, `text`, `fusion`) and heads; `encode_image`, `encode_text`,
    `match`, `answer` and `classify` are for use after training, with a tokenizer at hand.
    """

    def __init__(
        self, vision: VisionTower, text: TextTower, fusion: Fusion, embed_dim: int
    ) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        self.fusion = fusion
        self.image_proj = nn.Linear(vision.width, embed_dim, bias=False)
        self.text_proj = nn.Linear(text.width, embed_dim, bias=False)
        self.itm_head = nn.Linear(fusion.width, 2)
        for head in (self.image_proj, self.text_proj, self.itm_head):
            head.apply(init_weights)
        self.reader: TextReader | None = None
        # Fine-tuned for questions or classes, the model carries these along; they are none of its
        # modules, so the weights of a model are the same with them and without.
        self.answerer: Answerer | None = None
        self.classifier: Classifier | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("answerer", "classifier"):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def _carried(self) -> list[nn.Module]:
        return [part for part in (self.answerer, self.classifier) if part is not None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VLModel:
        """What `to`, `cuda` and the like do to each tensor."""
        if recurse:
            for part in self._carried:
                part._apply(fn)
        return super()._apply(fn, recurse)

    def train(self, mode: bool = True) -> VLModel:
        for part in self._carried:
            part.train(mode)
        return super().train(mode)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> VLModel:
        """The model that `save_pretrained` wrote, in evaluation mode, with its tokenizer.

        Raises:
            UserError: not such a folder, or weights of another architecture.
        """
        # The factory imports this module.
        from vlpretrain.models.factory import load_model

        return load_model(Path(folder)).to(device)

    def save_pretrained(
        self,
        folder: str | Path,
        tokenizer_folder: str | Path | None = None,
        state: dict[str, Tensor] | None = None,
    ) -> None:
        """Writes model.safetensors, vlpretrain.json and the tokenizer's files.

        Args:
            tokenizer_folder: where the tokenizer's files are copied from.
            state: the weights to write; None: the model's own.
        """
        # The factory imports this module.
        from vlpretrain.models.factory import save_model

        save_model(self, Path(folder), tokenizer_folder, state)

    @property
    def spec(self) -> ModelSpec:
        """What the model is made of."""
        return ModelSpec(
            self.vision.spec, self.text.spec, self.fusion.spec, self.image_proj.out_features
        )

    @property
    def weight_reports(self) -> tuple[WeightReport, ...]:
        """What came of loading each tower's weights; random towers have no report."""
        reports = (self.vision.weight_report, self.text.weight_report)
        return tuple(report for report in reports if report is not None)

    def image_embeddings(self, states: VisionStates) -> Tensor:
        """Pictures in the shared space, [B, E], not normalised."""
        return self.image_proj(states.pooled_BD)

    def text_embeddings(self, states: TextStates) -> Tensor:
        """Texts in the shared space, [B, E], not normalised."""
        return self.text_proj(states.pooled_BD)

    def itm_logits(self, state_PD: Tensor) -> Tensor:
        """Matching logits [P, 2] of fused first-token states; index 1 stands for a match."""
        return self.itm_head(state_PD)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute activations of towers and fusion in the backward pass."""
        for part in (self.vision, self.text, self.fusion):
            part.set_checkpointing(enabled)

    def compile_blocks(self) -> None:
        """torch.compile the blocks of towers and fusion, in place."""
        for part in (self.vision, self.text, self.fusion):
            part.compile_blocks()

    def encode_image(
        self, images: Picture | Sequence[Picture] | Tensor, batch_size: int = 32
    ) -> Tensor:
        """L2-normalised embeddings [B, E] of pictures, float32.

        Args:
            images: one or several Pillow pictures, paths, or uint8 RGB tensors [C, H, W]; or a
                tensor [B, C, H, W]. The middle square is resized to the model's size.
        """
        pictures = as_list(images)
        with _evaluating(self):
            parts = [
                F.normalize(self.image_embeddings(self._see(chunk)).float(), dim=-1)
                for chunk in _chunks(pictures, batch_size)
            ]
        return _joined(parts, self.image_proj.out_features)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> Tensor:
        """L2-normalised embeddings [B, E] of texts, float32."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        with _evaluating(self):
            parts = [
                F.normalize(self.text_embeddings(self._read(chunk)[0]).float(), dim=-1)
                for chunk in _chunks(texts, batch_size)
            ]
        return _joined(parts, self.text_proj.out_features)

    def match(
        self,
        images: Picture | Sequence[Picture] | Tensor,
        texts: str | Sequence[str],
        batch_size: int = 32,
    ) -> Tensor:
        """The probability [B] that text i describes picture i, float32.

        One picture may stand beside many texts: its keys and values are then computed once a batch.
        """
        pictures = as_list(images)
        texts = [texts] if isinstance(texts, str) else list(texts)
        if len(pictures) not in (1, len(texts)):
            raise UserError(
                f"{len(pictures)} pictures for {len(texts)} texts",
                where="match",
                fix="as many pictures as texts, or one picture",
            )
        with _evaluating(self):
            if len(pictures) == 1:
                seen = self._see(pictures)
                parts = [self._match(seen, chunk) for chunk in _chunks(texts, batch_size)]
            else:
                parts = [
                    self._match(self._see(some), chunk)
                    for some, chunk in zip(
                        _chunks(pictures, batch_size), _chunks(texts, batch_size), strict=True
                    )
                ]
        return torch.cat(parts) if parts else torch.empty(0)

    def answer(
        self,
        images: Images | Sequence[Images],
        questions: str | Sequence[str],
        top: int = 1,
        batch_size: int = 32,
        among: Sequence[str] | None = None,
    ) -> list[list[ScoredAnswer]]:
        """The `top` answers to each question, the best first, each with a probability.

        A model with a fixed answer vocabulary chooses from it; one with open answers writes them.
        Questions about one picture should stand side by side: it is then encoded once.

        Args:
            images: as many pictures as questions, or one for all. For a model that reads several
                pictures a question: as many sequences of pictures as questions, or one for all.
            among: choose from these answers alone; `model.answerer.spec.answers` is the list that
                the model was fine-tuned with.

        Raises:
            UserError: the model has no answerer, or numbers that do not fit.
        """
        questions = [questions] if isinstance(questions, str) else list(questions)
        with _evaluating(self):
            return answer_questions(self, images, questions, top, batch_size, among)

    def classify(
        self,
        images: Picture | Sequence[Picture] | Tensor,
        top: int = 1,
        batch_size: int = 32,
    ) -> list[list[ScoredClass]]:
        """The `top` likeliest classes of each picture, the best first, each with a probability.

        Raises:
            UserError: the model has no classifier.
        """
        classifier = self.classifier
        if classifier is None:
            raise UserError(
                "the model knows no classes",
                where="classify",
                fix="load one that was fine-tuned by task.name: classification",
            )
        with _evaluating(self):
            return [
                best
                for chunk in _chunks(as_list(images), batch_size)
                for best in best_classes(classifier(self._see(chunk)), classifier.spec.classes, top)
            ]

    def _match(self, seen: VisionStates, texts: list[str]) -> Tensor:
        states, valid_BT = self._read(texts)
        row_P = torch.arange(len(texts), device=valid_BT.device)
        pairs = FusionPairs(
            text_row_P=row_P,
            image_row_P=row_P if len(seen.token_BND) > 1 else torch.zeros_like(row_P),
            read_index_K=row_P * valid_BT.shape[1],
        )
        fused_PD = self.fusion(seen.token_BND, states.token_BTD, valid_BT, pairs)
        return self.itm_logits(fused_PD).float().softmax(dim=-1)[:, 1]

    def _see(self, pictures: list[Picture]) -> VisionStates:
        pixels_BCHW = load_pixels(pictures, self.vision.image_size)
        return self.vision(pixels_BCHW.to(self.image_proj.weight.device))

    def _read(self, texts: list[str]) -> tuple[TextStates, Tensor]:
        if self.reader is None:
            raise UserError(
                "the model has no tokenizer",
                where="encode_text",
                fix="load it by VLModel.from_pretrained from a folder with tokenizer files",
            )
        text_BT, valid_BT = self.reader.read(texts)
        device = self.text_proj.weight.device
        valid_BT = valid_BT.to(device)
        return self.text(text_BT.to(device), valid_BT), valid_BT


def parameter_counts(model: VLModel) -> dict[str, int]:
    """Parameters of each part."""
    heads = (model.image_proj, model.text_proj, model.itm_head)
    return {
        "vision": _count(model.vision),
        "text": _count(model.text),
        "fusion": _count(model.fusion),
        "heads": sum(_count(head) for head in heads),
    }


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def _chunks(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _joined(parts: list[Tensor], width: int) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, width)
