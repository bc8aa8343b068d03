"""Word maps: the gradient-weighted attention, of that text and picture alone, and nothing left
behind."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vlpretrain.data.tokenise import train_wordpiece
from vlpretrain.errors import UserError
from vlpretrain.models import layers as layers_module
from vlpretrain.models.attention import attend
from vlpretrain.models.factory import create_model
from vlpretrain.models.inputs import FastReader, Word
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vision import VisionStates
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.explain import default_layer, gradient_weighted, word_maps
from vlpretrain.tasks.judges import Judge, Verdict, match_judge

TEXT = "a red squarered circle"  # the third word is of several pieces
PATCHES = 16
SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", 32, depth=1, width=48, heads=3, patch=8),
    TextSpec(vocab_size=60, max_tokens=16, depth=1, width=32, heads=2, dropout=0.5),
    FusionSpec("cross", depth=3, width=32, heads=2, dropout=0.5),
    embed_dim=16,
)


def tiny_model(kind: str = "cross", **changes: Any) -> VLModel:
    """Random, with weights large enough to say something.

    Args:
        changes: of SPEC.
    """
    torch.manual_seed(0)
    spec = replace(SPEC, fusion=replace(SPEC.fusion, kind=kind))
    model = create_model(replace(spec, **changes))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    tokeniser = train_wordpiece(["a red square on a blue circle"] * 3, spec.text.vocab_size)
    model.reader = FastReader(tokeniser.tokenizer, spec.text.max_tokens)
    return model


@pytest.fixture
def model() -> VLModel:
    return tiny_model()


@pytest.fixture(params=["cross", "merged"])
def any_model(request) -> VLModel:
    return tiny_model(request.param)


@pytest.fixture
def pixels_BCHW() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)


def all_tokens_judge(model: VLModel) -> Judge:
    """A head that reads every token of every picture."""
    return lambda fused_BTD: Verdict(model.itm_logits(fused_BTD).sin().sum())


class Nudge:
    """Stands in for `attend`: in one of its calls it raises one attention weight by `step`."""

    def __init__(self, call: int, step: float) -> None:
        self.call, self.step = call, step
        self.calls = 0
        self.weight_HQK = torch.empty(0)  # of that call
        self.at: tuple[int, int, int] | None = None  # head, query, key

    def __call__(self, query, key, value_GHNd, key_valid_GN=None, **options) -> Tensor:
        kept: list[Tensor] = options["kept"] if options["kept"] is not None else []
        mixed_GHQd = attend(query, key, value_GHNd, key_valid_GN, kept=kept)
        self.calls += 1
        if self.calls - 1 != self.call:
            return mixed_GHQd
        self.weight_HQK = kept[0][0].detach()
        if self.at is None:
            return mixed_GHQd
        head, row, column = self.at
        raised_GHQd = torch.zeros_like(mixed_GHQd)
        raised_GHQd[0, head, row] = self.step * value_GHNd[0, head, column]
        return mixed_GHQd + raised_GHQd


@pytest.mark.parametrize(("kind", "call"), [("cross", 3), ("merged", 1)])
def test_maps_equal_the_slow_way(kind, call, pixels_BCHW, monkeypatch):
    """One weight after the other is raised a little, and the scores are compared."""
    model = tiny_model(kind).double()
    nudge = Nudge(call, step=1e-6)
    monkeypatch.setattr(layers_module, "attend", nudge)

    def score(at: tuple[int, int, int] | None) -> float:
        nudge.at, nudge.calls = at, 0
        return word_maps(model, pixels_BCHW[:1], TEXT, match_judge(model), layer=1).score

    def slow(position: int, patch: int) -> float:
        column = patch - PATCHES + nudge.weight_HQK.shape[-1]
        parts = [
            (score((head, position, column)) - unchanged)
            / nudge.step
            * float(nudge.weight_HQK[head, position, column])
            for head in range(2)
        ]
        return sum(max(0.0, part) for part in parts) / 2

    unchanged = score(None)
    map_LN = word_maps(model, pixels_BCHW[:1], TEXT, match_judge(model), 1).map_BLhw[0].flatten(1)
    assert (map_LN > 0).any(dim=1).all()
    for number, (_, positions) in enumerate(model.reader.words(TEXT)):
        for patch in (0, 6, 15):
            expected = sum(slow(position, patch) for position in positions) / len(positions)
            assert float(map_LN[number, patch]) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_heads_are_averaged_after_what_lowers_the_score_is_left_out():
    weight_BHTN = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1)
    gradient_BHTN = torch.tensor([4.0, -9.0]).view(1, 2, 1, 1)
    assert gradient_weighted(weight_BHTN, gradient_BHTN).item() == (0.5 * 4 + 0) / 2


class OneMarkedPatch(nn.Module):
    """A tower whose tokens are alike but for one patch, the only one with anything to tell."""

    grid, num_prefix, image_size = (4, 4), 1, 32

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, pixels_BCHW: Tensor) -> VisionStates:
        token_BND = torch.zeros(len(pixels_BCHW), self.num_prefix + PATCHES, 48)
        token_BND[:, self.num_prefix + self.patch] = torch.linspace(-2, 2, 48).sin()
        return VisionStates(token_BND, token_BND[:, 0], self.num_prefix)


@pytest.mark.parametrize("patch", [0, 6, 15])
def test_where_one_patch_alone_matters_every_word_points_there(patch, pixels_BCHW):
    """What the others bring to a word is zero, whatever its attention to them."""
    model = tiny_model()
    model.vision = OneMarkedPatch(patch)
    for layer in model.fusion.body.layers:
        nn.init.zeros_(layer.picture.key_value.bias)
    maps = word_maps(model, pixels_BCHW[:1], TEXT, all_tokens_judge(model))
    elsewhere_N = torch.arange(PATCHES) != patch
    flat_LN = maps.map_BLhw[0].flatten(1)
    assert flat_LN[:, elsewhere_N].eq(0).all()
    assert flat_LN[:, patch].gt(0).any()


def test_a_map_belongs_to_its_own_picture(any_model, pixels_BCHW):
    judge = all_tokens_judge(any_model)
    together = word_maps(any_model, pixels_BCHW, TEXT, judge).map_BLhw
    for row in range(2):
        alone = word_maps(any_model, pixels_BCHW[row : row + 1], TEXT, judge).map_BLhw
        torch.testing.assert_close(together[row : row + 1], alone)
    assert not torch.allclose(together[0], together[1])


def test_a_word_s_map_is_the_mean_of_its_pieces(model, pixels_BCHW):
    maps = word_maps(model, pixels_BCHW[:1], TEXT, match_judge(model))
    words = model.reader.words(TEXT)
    assert maps.words == ("a", "red", "squarered", "circle")
    pieces = words[2].positions
    assert len(pieces) > 1
    model.reader.words = lambda text: [Word("piece", (position,)) for position in pieces]
    apart = word_maps(model, pixels_BCHW[:1], TEXT, match_judge(model)).map_BLhw
    torch.testing.assert_close(apart.mean(dim=1), maps.map_BLhw[:, 2])


def test_the_whole_is_shared_out_among_all_tokens(model, pixels_BCHW):
    """Taking special tokens for words too, the shares add up."""
    maps = word_maps(model, pixels_BCHW, TEXT, match_judge(model))
    num_tokens = len(model.reader.read([TEXT])[0][0])
    model.reader.words = lambda text: [Word("token", (place,)) for place in range(num_tokens)]
    apart = word_maps(model, pixels_BCHW, TEXT, match_judge(model))
    torch.testing.assert_close(apart.map_BLhw.mean(dim=1), maps.whole_Bhw)
    assert float(apart.share_L.sum()) == pytest.approx(1)
    torch.testing.assert_close(maps.share_L[2], apart.share_L[3:-2].sum())
    assert 0 < float(maps.share_L.sum()) < 1


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("caller", [nullcontext, torch.no_grad, torch.inference_mode])
def test_the_model_is_left_as_it_was(model, pixels_BCHW, training, caller):
    """And the maps are the same whatever the caller has switched off."""
    expected = word_maps(model.eval(), pixels_BCHW, TEXT, match_judge(model)).map_BLhw
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train(training)
    with caller():
        maps = word_maps(model, pixels_BCHW.clone(), TEXT, match_judge(model))
    torch.testing.assert_close(maps.map_BLhw, expected, rtol=0, atol=0)
    assert model.training is training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_frozen_parameters_make_no_difference(any_model, pixels_BCHW):
    expected = word_maps(any_model, pixels_BCHW, TEXT, match_judge(any_model)).map_BLhw
    any_model.requires_grad_(False)
    maps = word_maps(any_model, pixels_BCHW, TEXT, match_judge(any_model))
    torch.testing.assert_close(maps.map_BLhw, expected, rtol=0, atol=0)


def test_a_match_is_judged_as_the_model_judges_it(model, pixels_BCHW):
    maps = word_maps(model, pixels_BCHW[:1], TEXT, match_judge(model))
    assert maps.answer is None
    assert maps.probability == pytest.approx(float(model.match(pixels_BCHW[0], TEXT)), abs=1e-5)


def test_an_answer_of_the_judge_s_is_handed_on(model, pixels_BCHW):
    def judge(fused_BTD: Tensor) -> Verdict:
        assert fused_BTD.shape[0] == 2
        return Verdict(fused_BTD[:, 0].sin().sum(), probability=0.25, answer="blue")

    maps = word_maps(model, pixels_BCHW, TEXT, judge)
    assert (maps.answer, maps.probability, maps.text) == ("blue", 0.25, TEXT)
    assert maps.map_BLhw.shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("resnet10t", 96, (3, 3)), ("swin_tiny_patch4_window7_224", 64, (2, 2))],
)
def test_maps_stand_on_the_tower_s_grid(name, size, grid):
    model = tiny_model(vision=VisionSpec(name, size, block=32))
    pixels_1CHW = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    maps = word_maps(model, pixels_1CHW, TEXT, match_judge(model))
    assert maps.map_BLhw.shape == (1, 4, *grid)


def test_bfloat16_gives_float32_maps(any_model, pixels_BCHW):
    expected = word_maps(any_model, pixels_BCHW, TEXT, match_judge(any_model)).map_BLhw
    maps = word_maps(any_model.bfloat16(), pixels_BCHW, TEXT, match_judge(any_model))
    assert maps.map_BLhw.dtype == torch.float32
    alike = torch.nn.functional.cosine_similarity(maps.map_BLhw.flatten(), expected.flatten(), 0)
    assert float(alike) > 0.9


@pytest.mark.parametrize(("depth", "layer"), [(1, 0), (2, 0), (3, 1), (6, 2), (12, 5)])
def test_the_default_is_albef_s_third_of_six(depth, layer):
    assert default_layer(depth) == layer


def test_a_layer_that_the_score_does_not_hear_of_is_refused(any_model, pixels_BCHW):
    """After the last layer the first token's state knows of its own look alone."""
    with pytest.raises(UserError, match="layer 2 .* never reaches"):
        word_maps(any_model, pixels_BCHW, TEXT, match_judge(any_model), layer=2)
    maps = word_maps(any_model, pixels_BCHW, TEXT, all_tokens_judge(any_model), layer=2)
    assert maps.map_BLhw.any()
    with pytest.raises(UserError, match="0 to 2"):
        word_maps(any_model, pixels_BCHW, TEXT, match_judge(any_model), layer=3)


def test_what_cannot_be_explained_is_said(model, pixels_BCHW):
    with pytest.raises(UserError, match="no word in the text ' '"):
        word_maps(model, pixels_BCHW, " ", match_judge(model))
    plain = tiny_model("concat")
    with pytest.raises(UserError, match="never look"):
        word_maps(plain, pixels_BCHW, TEXT, match_judge(plain))
    plain.reader = None
    with pytest.raises(UserError, match="no tokenizer"):
        word_maps(plain, pixels_BCHW, TEXT, match_judge(plain))
