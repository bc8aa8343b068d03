"""BERT without padding gives what transformers' BertModel gives with it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from vlpretrain.models import text as text_module
from vlpretrain.models.text import TransformersEncoder

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 20,
    "hidden_dropout_prob": 0.0,
}


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    """Padding behind a text, within it, and a text with a single token."""
    torch.manual_seed(0)
    valid_BT = torch.arange(9) < torch.tensor([[9], [5], [7], [1]])
    valid_BT[2, 3] = False
    return torch.randint(3, 50, valid_BT.shape).masked_fill(~valid_BT, 0), valid_BT


def bert(dropout: float = 0.0) -> BertModel:
    torch.manual_seed(1)
    return BertModel(BertConfig(**SIZES, attention_probs_dropout_prob=dropout))


@pytest.mark.parametrize("training", [True, False])
def test_states_and_gradients_are_transformers_own(texts, training):
    text_BT, valid_BT = texts
    model = bert().double().train(training)
    model.pooler = None
    expected_BTD = model(text_BT, valid_BT.long()).last_hidden_state
    weight_SD = torch.randn_like(expected_BTD[valid_BT])
    parameters = list(model.parameters())
    expected = torch.autograd.grad((expected_BTD[valid_BT] * weight_SD).sum(), parameters)

    found_BTD = TransformersEncoder(model)(text_BT, valid_BT).token_BTD
    found = torch.autograd.grad((found_BTD[valid_BT] * weight_SD).sum(), parameters)
    torch.testing.assert_close(found_BTD[valid_BT], expected_BTD[valid_BT])
    torch.testing.assert_close(found, expected)


def test_linear_layers_see_real_tokens_only(texts):
    encoder = TransformersEncoder(bert())
    rows = []
    encoder.model.encoder.layer[1].intermediate.register_forward_hook(
        lambda module, inputs, output: rows.append(output.shape[:-1].numel())
    )
    encoder(*texts)
    assert rows == [int(texts[1].sum())]


def test_an_absent_text_gives_finite_states(texts):
    text_BT, valid_BT = texts
    encoder = TransformersEncoder(bert())
    states = encoder(text_BT, valid_BT & (torch.arange(4) > 0)[:, None])
    assert states.token_BTD.isfinite().all()
    torch.testing.assert_close(states.token_BTD[1:], encoder(text_BT, valid_BT).token_BTD[1:])


def test_packed_and_padded_agree(texts, monkeypatch):
    encoder = TransformersEncoder(bert()).train()
    packed_BTD = encoder(*texts).token_BTD
    monkeypatch.setattr(text_module, "packs_rows", lambda device: False)
    torch.testing.assert_close(
        encoder(*texts).token_BTD[texts[1]], packed_BTD[texts[1]], rtol=1e-4, atol=1e-5
    )


def test_attention_dropout_is_drawn_in_training_only(texts):
    encoder = TransformersEncoder(bert(dropout=0.5))
    first, second = (encoder.train()(*texts).token_BTD for _ in range(2))
    assert not torch.equal(first, second)
    first, second = (encoder.eval()(*texts).token_BTD for _ in range(2))
    torch.testing.assert_close(first, second)


def test_a_decoder_is_not_packed(texts):
    text_BT, valid_BT = texts
    model = BertModel(BertConfig(**SIZES, is_decoder=True)).eval()
    expected_BTD = model(text_BT, valid_BT.long()).last_hidden_state
    found_BTD = TransformersEncoder(model)(text_BT, valid_BT).token_BTD
    torch.testing.assert_close(found_BTD[valid_BT], expected_BTD[valid_BT])
