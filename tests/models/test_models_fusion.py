"""Fusion: a pair's states depend on that pair alone, in every layout, and on nothing else."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.models import fusion as fusion_module
from vlpretrain.models.fusion import FUSIONS, Fusion, FusionPairs
from vlpretrain.models.layout import packed_layout, padded_layout
from vlpretrain.models.spec import FusionSpec

WIDTH, IMAGE_WIDTH, TEXT_WIDTH, LENGTH = 16, 24, 16, 5
KINDS = sorted(FUSIONS)


@pytest.fixture(params=KINDS)
def fusion(request) -> Fusion:
    torch.manual_seed(0)
    spec = FusionSpec(request.param, depth=3, width=WIDTH, heads=2, dropout=0.0)
    return Fusion(spec, IMAGE_WIDTH, TEXT_WIDTH)


@pytest.fixture
def states() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    image_RND = torch.randn(3, 7, IMAGE_WIDTH)
    text_RTD = torch.randn(4, LENGTH, TEXT_WIDTH)
    valid_RT = torch.arange(LENGTH) < torch.tensor([[5], [2], [3], [1]])
    return image_RND, text_RTD, valid_RT


@pytest.fixture
def pairs() -> FusionPairs:
    """Six pairs; the first token of each is read, and one more of pairs 0 and 4."""
    first_P = torch.arange(6) * LENGTH
    return FusionPairs(
        text_row_P=torch.tensor([0, 1, 2, 3, 2, 0]),
        image_row_P=torch.tensor([0, 1, 2, 0, 0, 0]),
        read_index_K=torch.cat([first_P, torch.tensor([4, 4 * LENGTH + 2])]),
    )


def one_by_one(fusion: Fusion, states: tuple[Tensor, Tensor, Tensor], pairs: FusionPairs) -> Tensor:
    """Each position read by a call of its own, without padding and without other pairs."""
    image_RND, text_RTD, valid_RT = states
    rows = []
    for read in pairs.read_index_K.tolist():
        text, image = pairs.text_row_P[read // LENGTH], pairs.image_row_P[read // LENGTH]
        length = int(valid_RT[text].sum())
        alone = FusionPairs(torch.tensor([0]), torch.tensor([0]), torch.tensor([read % LENGTH]))
        text_1TD = text_RTD[text, :length].unsqueeze(0)
        valid_1T = torch.ones(1, length, dtype=torch.bool)
        rows.append(fusion(image_RND[image].unsqueeze(0), text_1TD, valid_1T, alone))
    return torch.cat(rows)


def gradients(fusion: Fusion, output: Tensor) -> list[Tensor]:
    weight_K1 = torch.linspace(-1, 1, len(output))[:, None]
    return list(torch.autograd.grad((output.sin() * weight_K1).sum(), list(fusion.parameters())))


@pytest.mark.parametrize("training", [True, False])
def test_a_state_depends_on_its_own_pair_alone(fusion, states, pairs, training):
    fusion.train(training)
    together, alone = fusion(*states, pairs), one_by_one(fusion, states, pairs)
    torch.testing.assert_close(together, alone)
    for ours, theirs in zip(gradients(fusion, together), gradients(fusion, alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_padding_may_hold_anything(fusion, states, pairs):
    image_RND, text_RTD, valid_RT = states
    filled_RTD = text_RTD.masked_fill(~valid_RT.unsqueeze(-1), 1e4)
    torch.testing.assert_close(
        fusion(image_RND, filled_RTD, valid_RT, pairs), fusion(*states, pairs)
    )


def test_packed_and_padded_layouts_agree(fusion, states, pairs, monkeypatch):
    results = []
    for layout in (packed_layout, lambda valid, pairs, _: padded_layout(valid, pairs)):
        monkeypatch.setattr(fusion_module, "lay_out", layout)
        output = fusion(*states, pairs)
        results.append([output, *gradients(fusion, output)])
    for packed, padded in zip(*results, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-5)


def test_reading_less_changes_nothing_for_what_is_read(fusion, states, pairs):
    some = replace(pairs, read_index_K=pairs.read_index_K[[7, 2]])
    torch.testing.assert_close(fusion(*states, some), fusion(*states, pairs)[[7, 2]])


def test_nothing_to_read_gives_nothing(fusion, states, pairs):
    none = replace(pairs, read_index_K=pairs.read_index_K[:0])
    assert fusion(*states, none).shape == (0, WIDTH)


def test_checkpointing_changes_no_gradient(fusion, states, pairs):
    plain = gradients(fusion, fusion(*states, pairs))
    fusion.set_checkpointing(True)
    for ours, theirs in zip(gradients(fusion, fusion(*states, pairs)), plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_one_layer_is_enough(states, pairs):
    for kind in KINDS:
        fusion = Fusion(FusionSpec(kind, 1, WIDTH, 2, 0.0), IMAGE_WIDTH, TEXT_WIDTH)
        torch.testing.assert_close(fusion(*states, pairs), one_by_one(fusion, states, pairs))


def test_every_parameter_takes_part(fusion, states, pairs):
    fusion(*states, pairs).sin().sum().backward()
    assert [name for name, p in fusion.named_parameters() if p.grad is None] == []


def test_keys_and_values_are_projected_once_a_picture_and_layer(states, pairs):
    fusion = Fusion(FusionSpec("cross", 3, WIDTH, 2, 0.0), IMAGE_WIDTH, TEXT_WIDTH)
    seen: list[int] = []
    for layer in fusion.body.layers:
        layer.picture.key_value.register_forward_hook(
            lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel())
        )
    fusion(*states, pairs)
    assert seen == [3 * 7] * 3


def test_the_last_feed_forward_works_for_the_read_positions_alone(states, pairs):
    fusion = Fusion(FusionSpec("cross", 2, WIDTH, 2, 0.0), IMAGE_WIDTH, TEXT_WIDTH)
    seen: list[int] = []
    for layer in fusion.body.layers:
        layer.feed.register_forward_hook(lambda module, inputs, out: seen.append(len(inputs[0])))
    fusion(*states, pairs)
    num_tokens = int(states[2][pairs.text_row_P].sum())
    assert seen == [num_tokens, len(pairs.read_index_K)]


def test_the_picture_matters_but_not_the_order_of_its_tokens(states, pairs):
    image_RND, text_RTD, valid_RT = states
    for kind in KINDS:
        fusion = Fusion(FusionSpec(kind, 2, WIDTH, 2, 0.0), IMAGE_WIDTH, TEXT_WIDTH)
        shuffled = fusion(image_RND.flip(1), text_RTD, valid_RT, pairs)
        other = fusion(image_RND.flip(0), text_RTD, valid_RT, pairs)
        torch.testing.assert_close(shuffled, fusion(*states, pairs), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(other, fusion(*states, pairs), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "late"}, "late"), ({"depth": 0}, "0 layers"), ({"heads": 3}, "3 heads")],
)
def test_impossible_fusions_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        Fusion(replace(FusionSpec(width=16, heads=2), **change), 16, 16)


LOOKING_KINDS = ["cross", "merged"]


def one_text_with_pictures() -> tuple[Tensor, Tensor, Tensor, FusionPairs]:
    """Three pictures, one text of five tokens, all positions read."""
    torch.manual_seed(1)
    pairs = FusionPairs(
        torch.zeros(3, dtype=torch.int64), torch.arange(3), torch.arange(3 * LENGTH)
    )
    valid_RT = torch.ones(1, LENGTH, dtype=torch.bool)
    return torch.randn(3, 7, IMAGE_WIDTH), torch.randn(1, LENGTH, TEXT_WIDTH), valid_RT, pairs


def looking_fusion(kind: str) -> Fusion:
    torch.manual_seed(0)
    return Fusion(FusionSpec(kind, 3, WIDTH, 2, 0.0), IMAGE_WIDTH, TEXT_WIDTH).eval()


@pytest.mark.parametrize("kind", LOOKING_KINDS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_layer_s_looks_are_kept_and_change_nothing(kind, layer):
    fusion, inputs = looking_fusion(kind), one_text_with_pictures()
    before = fusion(*inputs)
    with fusion.looking(layer) as kept:
        torch.testing.assert_close(fusion(*inputs), before)
    fusion(*inputs)
    assert len(kept) == 1
    look_PHTN = kept[0][:, :, :LENGTH, -7:]
    assert look_PHTN.shape == (3, 2, LENGTH, 7)
    share = look_PHTN.sum(-1)
    assert (share > 0).all()
    assert (share <= 1 + 1e-5).all()
    if kind == "cross":
        torch.testing.assert_close(share, torch.ones_like(share))


@pytest.mark.parametrize("kind", LOOKING_KINDS)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_looks_stand_in_the_order_of_pictures_tokens_and_patches(kind, layer, monkeypatch):
    """In both layouts; a picture whose tokens are turned round is looked at the other way round."""
    fusion, (image_RND, *rest) = looking_fusion(kind), one_text_with_pictures()
    looks = []
    for layout in (packed_layout, lambda valid, pairs, _: padded_layout(valid, pairs)):
        monkeypatch.setattr(fusion_module, "lay_out", layout)
        for pictures in (
            image_RND,
            torch.stack([image_RND[1].flip(0), image_RND[2], image_RND[0]]),
        ):
            with fusion.looking(layer) as kept:
                fusion(pictures, *rest)
            looks.append(kept[0][:, :, :LENGTH, -7:])
    packed, packed_turned, padded, padded_turned = looks
    torch.testing.assert_close(packed, padded)
    torch.testing.assert_close(packed_turned, padded_turned)
    torch.testing.assert_close(packed_turned[0], packed[1].flip(-1))
    torch.testing.assert_close(packed_turned[1:], packed[[2, 0]])


def test_compiled_layers_stay_compiled_and_are_not_compiled_for_a_look():
    fusion, inputs = looking_fusion("cross"), one_text_with_pictures()
    graphs: list[object] = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    for layer in fusion.body.layers:
        layer.compile(backend=backend, dynamic=True)
    with fusion.looking(1) as kept:
        looked = fusion(*inputs)
    assert graphs == []
    assert torch.autograd.grad(looked.sum(), kept)[0].any()
    torch.testing.assert_close(fusion(*inputs), looked)
    num_graphs = len(graphs)
    assert num_graphs > 0
    with fusion.looking(1):
        fusion(*inputs)
    fusion(*inputs)
    assert len(graphs) == num_graphs


def test_where_there_is_nothing_to_look_at_is_said():
    with pytest.raises(UserError, match="never look"), looking_fusion("concat").looking(0):
        pass
    for layer in (-1, 3):
        with pytest.raises(UserError, match="0 to 2"), looking_fusion("cross").looking(layer):
            pass
