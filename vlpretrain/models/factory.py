"""Making, saving and loading whole models.

An export folder holds `model.safetensors`, `vlpretrain.json` (what the model is made of), the
tokenizer's files; if the model answers questions, `answerer.safetensors` and `answerer.json`; if it
tells classes apart, `classifier.safetensors` and `classifier.json`.
Nothing in it runs code, and loading needs neither a configuration nor a hub.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vlpretrain import __version__
from vlpretrain.errors import UserError
from vlpretrain.models.answerer_files import ANSWERER_FILES, load_answerer, save_answerer
from vlpretrain.models.classifier_files import CLASSIFIER_FILES, load_classifier, save_classifier
from vlpretrain.models.fusion import Fusion
from vlpretrain.models.inputs import open_reader
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.text import TextTower
from vlpretrain.models.vision import VisionTower
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.models.weights import (
    load_exactly,
    read_description,
    read_weights,
    save_description,
    save_weights,
)

DESCRIPTION_FILE = "vlpretrain.json"
WEIGHTS_FILE = "model.safetensors"
HEAD_FILES = (ANSWERER_FILES, CLASSIFIER_FILES)
_TOKENIZER_SUFFIXES = (".json", ".txt", ".model")
_NOT_TOKENIZER = (
    DESCRIPTION_FILE,
    *(files.description for files in HEAD_FILES),
    "config.json",
    "generation_config.json",
)


def create_model(spec: ModelSpec) -> VLModel:
    """The towers with their weights, the fusion and the heads.

    Raises:
        UserError: an unknown name, sizes that do not fit, weights that cannot be had.
    """
    vision = VisionTower(spec.vision)
    text = TextTower(spec.text)
    fusion = Fusion(spec.fusion, image_width=vision.width, text_width=text.width)
    return VLModel(vision, text, fusion, spec.embed_dim)


def save_model(
    model: VLModel,
    folder: Path,
    tokenizer_folder: str | Path | None,
    state: dict[str, Tensor] | None,
) -> None:
    """See VLModel.save_pretrained. Each file is whole or absent; the description comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    # What another model left here would not fit this one.
    for files in HEAD_FILES:
        files.remove(folder)
    save_weights(model.state_dict() if state is None else state, folder / WEIGHTS_FILE)
    if tokenizer_folder is not None:
        _copy_tokenizer(Path(tokenizer_folder), folder)
    save_description(_describe(model), folder / DESCRIPTION_FILE)
    if model.answerer is not None:
        save_answerer(model.answerer, folder)
    if model.classifier is not None:
        save_classifier(model.classifier, folder)


def load_model(folder: Path) -> VLModel:
    """See VLModel.from_pretrained."""
    model = create_model(read_spec(folder))
    path = folder / WEIGHTS_FILE
    load_exactly(model, read_weights(path), path, DESCRIPTION_FILE)
    model.reader = open_reader(folder, model.spec.text.max_tokens)
    model.answerer = load_answerer(folder, model.fusion.width, model.text.vocab_size)
    model.classifier = load_classifier(folder, model.vision.width)
    return model.eval()


def read_spec(folder: Path) -> ModelSpec:
    """What the model of an export folder is made of.

    Raises:
        UserError: no export, a damaged one, or one of another version.
    """
    return _spec_of(_read_description(folder), folder)


def _describe(model: VLModel) -> dict[str, Any]:
    spec = model.spec
    # What the towers were started from is history: the weights lie beside.
    vision = replace(spec.vision, weights="")
    text = replace(spec.text, weights="random", architecture=model.text.architecture)
    return {
        "version": __version__,
        "model": asdict(replace(spec, vision=vision, text=text)),
        "image_mean": model.vision.image_mean,
        "image_std": model.vision.image_std,
    }


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise UserError(
            f"no model was saved here: there is no {DESCRIPTION_FILE}",
            where=str(folder),
            fix="an export folder of a run, or one that save_pretrained wrote",
        )
    return read_description(path)


def _spec_of(description: dict[str, Any], folder: Path) -> ModelSpec:
    try:
        parts = dict(description["model"])
        return ModelSpec(
            vision=VisionSpec(**parts.pop("vision")),
            text=TextSpec(**parts.pop("text")),
            fusion=FusionSpec(**parts.pop("fusion")),
            **parts,
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"describes a model that version {__version__} does not know: {error}",
            where=str(folder / DESCRIPTION_FILE),
            fix=f"the version that wrote it ({description.get('version', 'unknown')})",
        ) from error


def _copy_tokenizer(source: Path, target: Path) -> None:
    for file in sorted(source.iterdir()):
        wanted = file.suffix in _TOKENIZER_SUFFIXES and file.name not in _NOT_TOKENIZER
        if file.is_file() and wanted and source.resolve() != target.resolve():
            shutil.copyfile(file, target / file.name)
