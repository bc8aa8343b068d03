"""BERT without work on padding.

The tokens of all texts stand behind one another as one row, so that embeddings and linear layers
see real tokens only; attention alone pads. transformers hands every layer's queries, keys and
values to an attention function that is chosen by name: here to `packed_attention`.

Shapes: R texts, T positions of the padded texts, S real tokens, H heads, d width of a head,
D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from vlpretrain.models.attention import attend, merge_heads, prefers_plain, split_heads
from vlpretrain.models.layout import Slots, first_is_valid

PACKED = "vlpretrain_packed"


@dataclass(frozen=True, slots=True)
class TextLayout:
    """Where the packed tokens stand in the padded texts."""

    slots: Slots  # by text
    valid_RT: Tensor


def can_pack(model: PreTrainedModel) -> bool:
    """Whether `packed_states` knows this encoder: BERT, not as a decoder."""
    return model.config.model_type == "bert" and not model.config.is_decoder


def packed_states(model: Any, text_RT: Tensor, valid_RT: Tensor) -> Tensor:
    """The encoder's states [R, T, D] of token ids; zeros where `valid_RT` is False.

    The model's attention implementation must be PACKED. A text's first position always counts as
    valid. The host waits for the number of valid tokens.
    """
    valid_RT = first_is_valid(valid_RT)
    index_S = valid_RT.flatten().nonzero().squeeze(1)
    slots = Slots(index_S, *valid_RT.shape)
    output = model(
        input_ids=text_RT.flatten()[index_S][None],
        position_ids=(index_S % slots.size)[None],
        text_layout=TextLayout(slots, valid_RT),
    )
    return slots.pad(output.last_hidden_state.squeeze(0))


def packed_attention(
    module: nn.Module,
    query_1HSd: Tensor,
    key_1HSd: Tensor,
    value_1HSd: Tensor,
    attention_mask: None,
    dropout: float,
    text_layout: TextLayout,
    **others: object,
) -> tuple[Tensor, None]:
    """Each token reads its own text: [1, S, H, d], as transformers' attention functions give it."""
    slots, heads = text_layout.slots, query_1HSd.shape[1]
    query, key, value = (
        split_heads(slots.pad(merge_heads(part_1HSd).squeeze(0)), heads)
        for part_1HSd in (query_1HSd, key_1HSd, value_1HSd)
    )
    plain = prefers_plain(module.training, query.device)
    mixed_RHTd = attend(query, key, value, text_layout.valid_RT, plain=plain, dropout=dropout)
    mixed_SD = slots.unpad(merge_heads(mixed_RHTd))
    return mixed_SD.unflatten(-1, (heads, -1))[None], None


AttentionInterface.register(PACKED, packed_attention)
