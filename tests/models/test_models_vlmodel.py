"""The whole model: export folders, use from Python, what is refused."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vlpretrain.errors import UserError
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel, parameter_counts

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "two", "red", "dogs", "squares"]
TEXTS = ["two dogs", "red squares red squares red", "dogs"]
SPEC = ModelSpec(
    VisionSpec("vit_tiny_patch16_224", 32, depth=1, width=48, heads=3),
    TextSpec(vocab_size=len(WORDS), max_tokens=6, depth=1, width=32, heads=2),
    FusionSpec("cross", depth=2, width=32, heads=2),
    embed_dim=16,
)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def export(tmp_path_factory, tokenizer_folder):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("export")
    create_model(SPEC).save_pretrained(folder, tokenizer_folder)
    return folder


@pytest.fixture(scope="module")
def model(export) -> VLModel:
    return VLModel.from_pretrained(export)


@pytest.fixture
def pixels() -> Tensor:
    torch.manual_seed(0)
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)


def test_saved_and_loaded_it_is_the_same_model(model, export, tmp_path):
    assert load_file(export / "model.safetensors").keys() == model.state_dict().keys()
    model.save_pretrained(tmp_path)
    again = VLModel.from_pretrained(tmp_path)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=0, atol=0)
    assert again.spec == model.spec
    assert not again.training


def test_the_description_is_plain_values(export):
    description = json.loads((export / "vlpretrain.json").read_text())
    assert description["model"]["vision"]["image_size"] == 32
    assert description["image_mean"] == [0.5, 0.5, 0.5]
    assert {file.suffix for file in export.iterdir()} == {".json", ".safetensors"}


def test_other_weights_can_be_written_in_place_of_the_model_s_own(model, tmp_path):
    ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path, state=ones)
    assert VLModel.from_pretrained(tmp_path).itm_head.weight.eq(1).all()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(model, pixels, batch_size):
    image_BE, text_BE = model.encode_image(pixels, batch_size), model.encode_text(TEXTS, batch_size)
    assert image_BE.shape == text_BE.shape == (3, 16)
    for rows in (image_BE, text_BE):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(image_BE[1:2], model.encode_image(pixels[1]))
    torch.testing.assert_close(text_BE[1:2], model.encode_text(TEXTS[1]))


def test_pictures_come_as_tensors_pillow_pictures_or_paths(model, pixels, tmp_path):
    pictures = [Image.fromarray(rows.permute(1, 2, 0).numpy()) for rows in pixels]
    pictures[1].save(tmp_path / "one.png")
    mixed = [pixels[0], tmp_path / "one.png", pictures[2]]
    torch.testing.assert_close(model.encode_image(mixed), model.encode_image(pixels))


def test_the_middle_square_of_a_picture_is_seen(model, pixels):
    wide = torch.zeros(3, 32, 50, dtype=torch.uint8)
    wide[:, :, 9:41] = pixels[0]
    torch.testing.assert_close(model.encode_image(wide), model.encode_image(pixels[0]))


@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_match_is_a_probability_of_that_pair_alone(model, pixels, batch_size):
    probability_B = model.match(pixels, TEXTS, batch_size)
    assert ((probability_B > 0) & (probability_B < 1)).all()
    for row in range(3):
        alone = model.match(pixels[row], TEXTS[row])
        torch.testing.assert_close(probability_B[row : row + 1], alone)


def test_one_picture_beside_many_texts(model, pixels):
    beside = model.match(pixels[0], TEXTS)
    torch.testing.assert_close(beside, model.match(pixels[:1].expand(3, -1, -1, -1), TEXTS))


def test_use_leaves_the_training_mode_as_it_was(model, pixels):
    model.train()
    model.encode_image(pixels)
    assert model.training
    assert model.fusion.training
    model.eval()


def test_nothing_in_gives_nothing_out(model):
    assert model.encode_image([]).shape == (0, 16)
    assert model.encode_text([]).shape == (0, 16)
    assert model.match([], []).shape == (0,)


def test_parameters_are_counted_by_part(model):
    counts = parameter_counts(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["heads"] == 48 * 16 + 32 * 16 + 32 * 2 + 2


def test_misuse_is_said(model, pixels, tmp_path):
    with pytest.raises(UserError, match="2 pictures for 3 texts"):
        model.match(pixels[:2], TEXTS)
    with pytest.raises(UserError, match="float32"):
        model.encode_image(pixels.float())
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(UserError, match="text.jpg"):
        model.encode_image(tmp_path / "text.jpg")
    with pytest.raises(UserError, match="no tokenizer"):
        create_model(SPEC).encode_text("two dogs")


def test_folders_that_hold_no_such_model_are_refused(model, export, tmp_path):
    with pytest.raises(UserError, match="no model was saved here"):
        VLModel.from_pretrained(tmp_path)
    (tmp_path / "vlpretrain.json").write_text('{"model": {"vision": {"nmae": "x"}}}')
    with pytest.raises(UserError, match="nmae"):
        VLModel.from_pretrained(tmp_path)
    (tmp_path / "vlpretrain.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        VLModel.from_pretrained(tmp_path)


def test_weights_of_another_architecture_are_named(model, tmp_path):
    deeper = replace(SPEC, fusion=replace(SPEC.fusion, depth=3))
    create_model(deeper).save_pretrained(tmp_path)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"fusion\.body\.layers\.2\..*\(missing\)"):
        VLModel.from_pretrained(tmp_path)
