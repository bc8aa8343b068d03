"""The text tower: transformers' and open_clip's encoders behind one interface."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel, T5Config, T5Model

from vlpretrain.errors import UserError
from vlpretrain.models.spec import TextSpec
from vlpretrain.models.text import TextTower

BERT = TextSpec(vocab_size=50, max_tokens=20, depth=2, width=32, heads=2, dropout=0.0)
SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


@pytest.fixture
def texts() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    valid_BT = torch.arange(9) < torch.tensor([[9], [5], [2]])
    return torch.randint(3, 50, (3, 9)).masked_fill(~valid_BT, 0), valid_BT


def saved(folder, kind: str) -> str:
    torch.manual_seed(3)
    if kind == "bert":
        model = BertModel(BertConfig(**SMALL))
    elif kind == "roberta":
        model = RobertaModel(RobertaConfig(**SMALL))
    else:
        model = T5Model(
            T5Config(vocab_size=50, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
        )
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta", "t5"])
def test_states_do_not_depend_on_padding(kind, tmp_path, texts):
    text_BT, valid_BT = texts
    spec = TextSpec(saved(tmp_path, kind), "pretrained", vocab_size=50, max_tokens=9, pad_id=0)
    tower = TextTower(spec).eval()
    states = tower(text_BT, valid_BT)
    alone = tower(text_BT[1:2, :5], valid_BT[1:2, :5])
    torch.testing.assert_close(states.token_BTD[1, :5], alone.token_BTD[0])
    torch.testing.assert_close(states.pooled_BD[1], alone.pooled_BD[0])


def test_a_local_folder_s_weights_are_taken_and_reported(tmp_path, texts):
    text_BT, valid_BT = texts
    folder = saved(tmp_path, "bert")
    tower = TextTower(TextSpec(folder, "pretrained", vocab_size=50)).eval()
    theirs = BertModel.from_pretrained(folder).eval()(text_BT, valid_BT.long()).last_hidden_state
    torch.testing.assert_close(tower(text_BT, valid_BT).token_BTD[valid_BT], theirs[valid_BT])
    assert tower.weight_report.loaded > 30
    assert tower.weight_report.missing == ()


def test_random_weights_of_a_named_architecture_follow_our_tokenizer(tmp_path):
    spec = TextSpec(saved(tmp_path, "bert"), "random", vocab_size=77)
    tower = TextTower(spec)
    assert tower.vocab_size == 77
    assert tower.weight_report is None


def test_the_architecture_alone_builds_the_tower_again(tmp_path, texts):
    spec = TextSpec(saved(tmp_path, "roberta"), "pretrained", vocab_size=50, max_tokens=20)
    first = TextTower(spec).eval()
    again = TextTower(replace(spec, name="gone", architecture=first.architecture)).eval()
    again.load_state_dict(first.state_dict())
    torch.testing.assert_close(first(*texts).token_BTD, again(*texts).token_BTD)


def test_training_and_evaluation_attention_agree(texts):
    tower = TextTower(BERT)
    evaluated = tower.eval()(*texts).token_BTD
    torch.testing.assert_close(
        tower.train()(*texts).token_BTD[texts[1]], evaluated[texts[1]], rtol=1e-4, atol=1e-5
    )


def test_checkpointing_changes_no_gradient(texts):
    tower = TextTower(BERT).train()

    def gradients() -> list[Tensor]:
        loss = tower(*texts).token_BTD.sin().sum()
        return list(torch.autograd.grad(loss, list(tower.parameters())))

    plain = gradients()
    tower.set_checkpointing(True)
    for ours, theirs in zip(gradients(), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_parameter_takes_part(texts):
    tower = TextTower(BERT)
    tower(*texts).token_BTD.sin().sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 5}, "5 heads"),
        ({"name": "/no/such/folder"}, "no text encoder"),
        ({"name": "open_clip:ViT-B-33"}, "ViT-B-33"),
    ],
)
def test_impossible_towers_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        TextTower(replace(BERT, **change))


def test_texts_longer_and_vocabularies_larger_than_the_encoder_s_are_refused(tmp_path):
    spec = TextSpec(saved(tmp_path, "roberta"), "pretrained", vocab_size=50, max_tokens=38)
    assert TextTower(spec).max_tokens == 38  # RoBERTa counts positions from 2 on
    with pytest.raises(UserError, match="38 tokens at most, not 39"):
        TextTower(replace(spec, max_tokens=39))
    with pytest.raises(UserError, match="51 tokens"):
        TextTower(replace(spec, vocab_size=51))
