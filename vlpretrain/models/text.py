"""The text tower: a transformers encoder or open_clip's.

Shapes: B texts, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, BertConfig, PreTrainedConfig

from vlpretrain.errors import UserError
from vlpretrain.models.attention import prefers_plain
from vlpretrain.models.backbones import HUB_ERRORS, OPEN_CLIP, create_open_clip
from vlpretrain.models.blocks import compile_blocks
from vlpretrain.models.layout import packs_rows
from vlpretrain.models.spec import TextSpec
from vlpretrain.models.text_packed import PACKED, can_pack, packed_states
from vlpretrain.models.weights import WeightReport, first_line

# BERT's own: a table for shorter texts would save little and forbid longer ones later.
_BERT_POSITIONS = 512
# Encoders that take a finished [B, 1, T, T] mask. Given a [B, T] one, transformers asks the device
# whether it is all True, for which the host waits.
_TAKE_FULL_MASK = ("bert", "roberta", "xlm-roberta", "electra", "camembert", "distilbert")
# Encoders that count positions from their padding id on.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


@dataclass(frozen=True, slots=True)
class TextStates:
    """What the tower makes of texts."""

    token_BTD: Tensor
    pooled_BD: Tensor  # the first token, or what the encoder itself pools


class TextTower(nn.Module):
    """Token ids to states.

    Attributes:
        width: of a state.
        vocab_size: ids that the tower has an embedding for.
        max_tokens: longest text that it can read.
        architecture: its transformers configuration as a dictionary; None for open_clip's.
        weight_report: what came of loading weights; None for random ones.
    """

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder, self.weight_report = _build_encoder(spec)
        self.width: int = self.encoder.width
        self.vocab_size: int = self.encoder.vocab_size
        self.max_tokens: int = self.encoder.max_tokens
        self.architecture: dict[str, Any] | None = self.encoder.architecture
        _check(spec, self)

    def forward(self, text_BT: Tensor, valid_BT: Tensor) -> TextStates:
        """States of token ids. Where `valid_BT` (True: a real token) is False they mean nothing."""
        return self.encoder(text_BT, valid_BT)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        self.encoder.set_checkpointing(enabled)

    def compile_blocks(self) -> None:
        """torch.compile each block, in place; names of weights stay."""
        compile_blocks(self.encoder)


class TransformersEncoder(nn.Module):
    """Any encoder of transformers' AutoModel, without its pooling head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        if hasattr(model, "pooler"):
            model.pooler = None
        self.model = model
        config = model.config
        self.width = config.hidden_size
        self.vocab_size = model.get_input_embeddings().num_embeddings
        self.max_tokens = _position_limit(config)
        self.architecture = config.to_dict()
        self._has_first_token = not config.is_encoder_decoder
        self._can_fuse = bool(model._supports_sdpa)
        self._takes_full_mask = config.model_type in _TAKE_FULL_MASK
        self._can_pack = can_pack(model)
        self._attention = ""

    def forward(self, text_BT: Tensor, valid_BT: Tensor) -> TextStates:
        if self._can_pack and packs_rows(text_BT.device):
            self._use_attention(PACKED)
            token_BTD = packed_states(self.model, text_BT, valid_BT)
        else:
            token_BTD = self._padded_states(text_BT, valid_BT)
        if self._has_first_token:
            return TextStates(token_BTD, token_BTD[:, 0])
        return TextStates(token_BTD, mean_of_valid(token_BTD, valid_BT))

    def _padded_states(self, text_BT: Tensor, valid_BT: Tensor) -> Tensor:
        plain = not self._can_fuse or prefers_plain(self.training, text_BT.device)
        self._use_attention("eager" if plain else "sdpa")
        mask = valid_BT.long()
        if self._takes_full_mask and not plain:
            mask = valid_BT[:, None, None, :].expand(-1, 1, text_BT.shape[1], -1)
        return self.model(input_ids=text_BT, attention_mask=mask).last_hidden_state

    def set_checkpointing(self, enabled: bool) -> None:
        if enabled:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()

    def _use_attention(self, kind: str) -> None:
        if kind != self._attention:
            self.model.set_attn_implementation(kind)
            self._attention = kind


class ClipTextEncoder(nn.Module):
    """open_clip's text transformer, without its projection. Padding stands behind the end token,
    and causal attention never sees it."""

    architecture: dict[str, Any] | None = None

    def __init__(self, text: TextTransformer) -> None:
        super().__init__()
        text.text_projection = None
        text.output_tokens = True
        text.transformer.register_forward_pre_hook(_cut_mask, with_kwargs=True)
        self.text = text
        self.width = text.width
        self.vocab_size = text.vocab_size
        self.max_tokens = text.context_length

    def forward(self, text_BT: Tensor, valid_BT: Tensor) -> TextStates:
        pooled_BD, token_BTD = self.text(text_BT)
        return TextStates(token_BTD, pooled_BD)

    def set_checkpointing(self, enabled: bool) -> None:
        self.text.set_grad_checkpointing(enabled)


def mean_of_valid(token_BTD: Tensor, valid_BT: Tensor) -> Tensor:
    """The mean of the states where `valid_BT` is True, [B, D]."""
    weight_BT1 = valid_BT.unsqueeze(-1).to(token_BTD.dtype)
    return (token_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


def _cut_mask(
    module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """open_clip hands its whole causal mask to texts that are shorter: cut it to their length."""
    mask = named["attn_mask"]
    if mask is not None and mask.ndim == 2:
        length = inputs[0].shape[1]
        named = {**named, "attn_mask": mask[:length, :length]}
    return inputs, named


def _build_encoder(spec: TextSpec) -> tuple[Any, WeightReport | None]:
    if spec.architecture is not None:
        architecture = dict(spec.architecture)
        config = AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        return TransformersEncoder(AutoModel.from_config(config)), None
    if spec.name.startswith(OPEN_CLIP):
        return _open_clip_encoder(spec)
    if spec.name == "bert":
        return TransformersEncoder(AutoModel.from_config(_bert_config(spec))), None
    try:
        return _named_encoder(spec)
    except HUB_ERRORS as error:
        raise UserError(
            f"no text encoder {spec.name!r} could be had: {first_line(error)}",
            where="model.text.name",
            fix='"bert", a folder that save_pretrained wrote, or a name of the hub',
        ) from error


def _named_encoder(spec: TextSpec) -> tuple[TransformersEncoder, WeightReport | None]:
    if spec.weights == "random":
        config = AutoConfig.from_pretrained(spec.name)
        config.vocab_size, config.pad_token_id = spec.vocab_size, spec.pad_id
        return TransformersEncoder(AutoModel.from_config(config)), None
    model, found = AutoModel.from_pretrained(spec.name, output_loading_info=True)
    missing = tuple(sorted(found["missing_keys"]))
    report = WeightReport(
        source=spec.name,
        loaded=len(model.state_dict()) - len(missing),
        missing=missing,
        unexpected=tuple(sorted(found["unexpected_keys"])),
        mismatched=tuple(sorted(str(item[0]) for item in found["mismatched_keys"])),
    )
    return TransformersEncoder(model), report


def _bert_config(spec: TextSpec) -> BertConfig:
    if spec.width % spec.heads:
        raise UserError(
            f"{spec.heads} heads do not divide the width {spec.width}",
            where="model.text.heads",
            fix="a number of heads that divides model.text.width",
        )
    return BertConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.width,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.heads,
        intermediate_size=4 * spec.width,
        hidden_dropout_prob=spec.dropout,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=max(_BERT_POSITIONS, spec.max_tokens),
        pad_token_id=spec.pad_id,
    )


def _open_clip_encoder(spec: TextSpec) -> tuple[Any, WeightReport | None]:
    weights = "" if spec.weights == "random" else spec.weights
    model, report = create_open_clip(spec.name, weights)
    text: Any = model.text
    if isinstance(text, HFTextEncoder):
        return TransformersEncoder(text.transformer), report
    if text.attn_mask is None or text.cls_emb is not None:
        raise UserError(
            f"the text tower of {spec.name!r} looks at its padding",
            where="model.text.name",
            fix="a causal one, such as open_clip:ViT-B-32, or a transformers encoder",
        )
    return ClipTextEncoder(text), report


def _position_limit(config: PreTrainedConfig) -> int:
    """The longest text, in tokens; encoders with relative positions have no limit."""
    limit = config.to_dict().get("max_position_embeddings", 0)
    if config.model_type in _OFFSET_POSITIONS:
        limit -= config.pad_token_id + 1
    return limit if limit > 0 else torch.iinfo(torch.int32).max


def _check(spec: TextSpec, tower: TextTower) -> None:
    if tower.max_tokens < spec.max_tokens:
        raise UserError(
            f"the text tower {spec.name!r} reads {tower.max_tokens} tokens at most, "
            f"not {spec.max_tokens}",
            where="data.max_tokens",
            fix=f"max_tokens: {tower.max_tokens}",
        )
    if tower.vocab_size < spec.vocab_size:
        raise UserError(
            f"the tokenizer has {spec.vocab_size} tokens, the text tower {spec.name!r} "
            f"embeddings for {tower.vocab_size}",
            where="data.tokenizer",
            fix="the tokenizer that belongs to the text tower",
        )
