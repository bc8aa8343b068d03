"""Where a model looks while it judges a text with a picture, word by word.

In a layer of the fusion, word t takes the share a of image token n, and the gradient ds/da says how
much that raises the score s of a verdict. A head's map is ReLU(ds/da * a): Grad-CAM (Selvaraju et
al. 2017) on the attention that words pay to the picture, as ALBEF (Li et al. 2021) shows it.

Shapes: B pictures, T tokens, L words, N image tokens, D width, h w rows and columns of the grid of
image tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.models.fusion import FusionPairs
from vlpretrain.models.inputs import TextReader, Word
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.judges import Judge


@dataclass(frozen=True, slots=True)
class WordMaps:
    """How much each word's look at each place raised a score; on the CPU."""

    text: str
    words: tuple[str, ...]
    map_BLhw: Tensor  # float32, none below 0; the mean over a word's pieces
    whole_Bhw: Tensor  # the mean over all tokens, special ones too
    share_L: Tensor  # each word's part of what all tokens have on their maps
    layer: int  # of the fusion, from 0
    score: float
    probability: float | None
    answer: str | None


def word_maps(
    model: VLModel, pixels_BCHW: Tensor, text: str, judge: Judge, layer: int | None = None
) -> WordMaps:
    """The map of every word, for the score that `judge` gives.

    The model keeps its mode, and its parameters no gradient. A map depends on its own picture alone
    as far as the score does.

    Args:
        pixels_BCHW: uint8 RGB of the model's size: the one picture that the text is read with, or
            several (NLVR2's two).
        layer: of the fusion, from 0; None: `default_layer`.

    Raises:
        UserError: a text without words, a model without tokenizer, a fusion that has no such layer
            or whose words don't look at pictures, a layer from which no word reaches the score.
    """
    layer = default_layer(model.fusion.spec.depth) if layer is None else layer
    reader = _reader_of(model)
    words = _words_of(reader, text)
    with _explaining(model), model.fusion.looking(layer) as kept:
        fused_BTD = _fuse(model, pixels_BCHW, *reader.read([text]))
        verdict = judge(fused_BTD)
        (weight_BHQK,) = kept
        (gradient_BHQK,) = torch.autograd.grad(verdict.score, kept)
    height, width = model.vision.grid
    part = (..., slice(fused_BTD.shape[1]), slice(-height * width, None))
    _check_reached(gradient_BHQK[part], words, layer)
    map_BTN = gradient_weighted(weight_BHQK[part].detach(), gradient_BHQK[part]).cpu()
    return WordMaps(
        text=text,
        words=tuple(word.text for word in words),
        map_BLhw=_by_word(map_BTN, words).unflatten(-1, (height, width)),
        whole_Bhw=map_BTN.mean(dim=1).unflatten(-1, (height, width)),
        share_L=_shares(map_BTN, words),
        layer=layer,
        score=float(verdict.score.detach()),
        probability=verdict.probability,
        answer=verdict.answer,
    )


def default_layer(depth: int) -> int:
    """The third of six layers, which ALBEF shows, and the like of it at other depths.

    Only where there is no other it is the last layer, in which the first token alone looks on
    behalf of a head that reads the first token alone.
    """
    return (depth - 1) // 2


def gradient_weighted(weight_BHTN: Tensor, gradient_BHTN: Tensor) -> Tensor:
    """Mean over heads of ReLU(gradient * weight): float32 [B, T, N]."""
    return (gradient_BHTN.float() * weight_BHTN.float()).relu().mean(dim=1)


def _fuse(model: VLModel, pixels_BCHW: Tensor, text_1T: Tensor, valid_1T: Tensor) -> Tensor:
    """States [B, T, D] of all tokens of a text, read with each picture. The towers run without
    gradient: the fusion's attention depends on them, not they on it."""
    device = model.itm_head.weight.device
    text_1T, valid_1T = text_1T.to(device), valid_1T.to(device)
    with torch.no_grad():
        image_BND = model.vision(pixels_BCHW.to(device)).token_BND
        text_1TD = model.text(text_1T, valid_1T).token_BTD
    picture_B = torch.arange(len(image_BND), device=device)
    pairs = FusionPairs(
        text_row_P=torch.zeros_like(picture_B),
        image_row_P=picture_B,
        read_index_K=torch.arange(len(picture_B) * text_1T.shape[1], device=device),
    )
    fused_KD = model.fusion(image_BND, text_1TD, valid_1T, pairs)
    return fused_KD.unflatten(0, (len(picture_B), -1))


def _by_word(map_BTN: Tensor, words: list[Word]) -> Tensor:
    """The mean over each word's pieces, [B, L, N]."""
    return torch.stack([map_BTN[:, list(word.positions)].mean(dim=1) for word in words], dim=1)


def _shares(map_BTN: Tensor, words: list[Word]) -> Tensor:
    """Each word's part of the sum over all tokens, [L]; zeros where every map is empty."""
    sum_T = map_BTN.sum(dim=(0, 2))
    sum_L = torch.stack([sum_T[list(word.positions)].sum() for word in words])
    return sum_L / sum_T.sum().clamp(min=torch.finfo(torch.float32).tiny)


def _reader_of(model: VLModel) -> TextReader:
    if model.reader is None:
        raise UserError(
            "the model has no tokenizer",
            where="explain",
            fix="load it by VLModel.from_pretrained from a folder with tokenizer files",
        )
    return model.reader


def _words_of(reader: TextReader, text: str) -> list[Word]:
    words = reader.words(text)
    if not words:
        raise UserError(
            f"no word in the text {text!r}",
            where="explain",
            fix="a caption or a question in words",
        )
    return words


def _check_reached(gradient_BHTN: Tensor, words: list[Word], layer: int) -> None:
    """A head that reads the first token alone knows nothing of what words saw in the last layer."""
    positions = [position for word in words for position in word.positions]
    if not bool(gradient_BHTN[:, :, positions].any()):
        raise UserError(
            f"what words see in layer {layer} of the fusion never reaches the score",
            where="layer",
            fix="an earlier layer" if layer else "a model with two or more layers of fusion",
        )


@contextmanager
def _explaining(model: VLModel) -> Iterator[None]:
    """Without dropout, and with gradients whatever the caller has switched off."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        model.train(training)
