"""Towers equal the libraries' own models; the fusion equals torch's own layers, pair by pair."""

import open_clip
import pytest
import torch
from torch import Tensor, nn

from vlpretrain.models.fusion import Fusion, FusionPairs
from vlpretrain.models.fusion_cross import CrossLayer
from vlpretrain.models.layers import Attention
from vlpretrain.models.spec import FusionSpec, TextSpec, VisionSpec
from vlpretrain.models.text import TextTower
from vlpretrain.models.vision import VisionTower

WIDTH, HEADS, LENGTH = 16, 2, 5
TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def tiny_clip(monkeypatch) -> str:
    """A small open_clip model under a name."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-clip", TINY_CLIP)
    return "tiny-clip"


def test_open_clip_s_image_tower(tiny_clip):
    torch.manual_seed(0)
    tower = VisionTower(VisionSpec(f"open_clip:{tiny_clip}", 32, block=16)).eval()
    clip = open_clip.create_model(tiny_clip).eval()
    clip.visual.proj = None
    clip.visual.load_state_dict(tower.backbone.state_dict())
    pixels_BCHW = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    states = tower(pixels_BCHW)
    torch.testing.assert_close(states.pooled_BD, clip.visual(tower.normalise(pixels_BCHW)))
    torch.testing.assert_close(states.token_BND[:, 0], states.pooled_BD)

    hidden_BG = torch.tensor([[True, False, False, False]] * 2)
    changed = pixels_BCHW.clone()
    changed[:, :, :16, :16] = 0
    torch.testing.assert_close(
        tower(changed, hidden_BG).token_BND, tower(pixels_BCHW, hidden_BG).token_BND
    )
    assert tower(pixels_BCHW, hidden_BG, visible_only=True).token_BND.shape == (2, 1 + 3, 32)


@pytest.mark.parametrize("length", [12, 7])
def test_open_clip_s_text_tower_at_full_and_shorter_length(tiny_clip, length):
    torch.manual_seed(0)
    tower = TextTower(TextSpec(f"open_clip:{tiny_clip}", vocab_size=60, max_tokens=12)).eval()
    clip = open_clip.create_model(tiny_clip, force_custom_text=True).eval()
    clip.text.text_projection = None
    clip.text.load_state_dict(tower.encoder.text.state_dict())
    text_BT = torch.zeros(2, 12, dtype=torch.int64)
    text_BT[0, :6] = torch.tensor([58, 4, 5, 6, 7, 59])
    text_BT[1, :3] = torch.tensor([58, 9, 59])
    states = tower(text_BT[:, :length], text_BT[:, :length] > 0)
    torch.testing.assert_close(states.pooled_BD, clip.text(text_BT))


def torch_attention(ours: Attention) -> nn.MultiheadAttention:
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]),
            "in_proj_bias": torch.cat([ours.query.bias, ours.key_value.bias]),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    return theirs


def plain_cross_layer(layer: CrossLayer, text_PTD: Tensor, image_PND: Tensor, padding: Tensor):
    """One layer with the picture's keys and values projected again for every pair."""
    normed = layer.word_norm(text_PTD)
    words, picture = torch_attention(layer.words), torch_attention(layer.picture)
    text_PTD = text_PTD + words(normed, normed, normed, key_padding_mask=padding)[0]
    text_PTD = text_PTD + picture(layer.picture_norm(text_PTD), image_PND, image_PND)[0]
    return text_PTD + layer.feed(layer.feed_norm(text_PTD))


@pytest.mark.parametrize("training", [True, False])
def test_cross_fusion_equals_the_obvious_computation_of_every_pair(training):
    torch.manual_seed(0)
    fusion = Fusion(FusionSpec("cross", 3, WIDTH, HEADS, 0.0), WIDTH, WIDTH).train(training)
    image_RND, text_RTD = torch.randn(3, 7, WIDTH), torch.randn(4, LENGTH, WIDTH)
    valid_RT = torch.arange(LENGTH) < torch.tensor([[5], [2], [3], [4]])
    text_row_P, image_row_P = torch.tensor([0, 1, 2, 3, 0, 2]), torch.tensor([0, 1, 2, 2, 2, 0])
    read_K = torch.tensor([0, 5, 10, 15, 20, 25, 17, 4])

    state_PTD = text_RTD[text_row_P]
    image_PND = fusion.image_norm(image_RND)[image_row_P]
    for layer in fusion.body.layers:
        state_PTD = plain_cross_layer(layer, state_PTD, image_PND, ~valid_RT[text_row_P])
    expected_KD = fusion.norm(state_PTD).flatten(0, 1)[read_K]

    pairs = FusionPairs(text_row_P, image_row_P, read_K)
    torch.testing.assert_close(fusion(image_RND, text_RTD, valid_RT, pairs), expected_KD)


@pytest.mark.parametrize("training", [True, False])
def test_merged_fusion_equals_torch_s_encoder_layer(training):
    torch.manual_seed(0)
    fusion = Fusion(FusionSpec("merged", 1, WIDTH, HEADS, 0.0), WIDTH, WIDTH).train(training)
    (layer,) = fusion.body.layers
    theirs = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True
    )
    theirs.self_attn = torch_attention(layer.attention)
    theirs.norm1, theirs.norm2 = layer.norm, layer.feed_norm
    theirs.linear1, theirs.linear2 = layer.feed[0], layer.feed[2]

    image_RND, text_RTD = torch.randn(2, 7, WIDTH), torch.randn(2, LENGTH, WIDTH)
    valid_RT = torch.arange(LENGTH) < torch.tensor([[5], [2]])
    row_P = torch.arange(2)
    pairs = FusionPairs(row_P, row_P, row_P * LENGTH)
    words = text_RTD + fusion.body.joint.modality_embed_2D[0]
    patches = fusion.image_norm(image_RND) + fusion.body.joint.modality_embed_2D[1]
    padding = torch.cat([~valid_RT, torch.zeros(2, 7, dtype=torch.bool)], dim=1)
    joint = theirs(torch.cat([words, patches], dim=1), src_key_padding_mask=padding)
    torch.testing.assert_close(
        fusion(image_RND, text_RTD, valid_RT, pairs), fusion.norm(joint[:, 0])
    )
