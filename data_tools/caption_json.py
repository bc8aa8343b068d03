"""Captions in JSON: a record a line, a list of records, COCO's format and Karpathy's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_tools.caption_rows import CaptionOptions, CaptionRow, CaptionRows
from data_tools.caption_tables import record_rows
from data_tools.columns import choose_columns
from data_tools.encodings import check_encoding, detect_encoding
from data_tools.json_files import load_json, read_json_objects
from vlpretrain.errors import UserError

# What COCO says of a picture that is worth keeping beside it: whom to credit.
COCO_CREDITS = ("license", "license_url", "flickr_url", "coco_url")


def read_json_lines(path: Path, options: CaptionOptions) -> CaptionRows:
    """JSON objects, one a line."""
    encoding = _encoding(path, options)
    first = next(read_json_objects(path, encoding), None)
    if first is None:
        raise UserError("no record in the file", where=str(path))
    names = list(first[1])
    columns = choose_columns(names, str(path), options.image_column, options.caption_column)

    def rows() -> Iterator[CaptionRow]:
        for _, record in read_json_objects(path, encoding):
            yield from record_rows(record, columns, str(path))

    return CaptionRows(rows(), {"encoding": encoding, "columns": columns.shown})


def read_json(path: Path, options: CaptionOptions) -> CaptionRows:
    """A JSON file of any of the known forms; the whole file is held in memory."""
    encoding = _encoding(path, options)
    content = load_json(path, encoding)
    form = _form(content, path)
    if options.format not in ("", "json", form):
        raise UserError(f"this is the {form} form, not {options.format}", where=str(path))
    understood = {"encoding": encoding, "form": form}
    match form:
        case "karpathy":
            if options.restval:
                understood["restval"] = f"counted as {options.restval}"
            return CaptionRows(_karpathy_rows(content["images"], options.restval), understood)
        case "coco":
            return CaptionRows(_coco_rows(content, path), understood)
        case _:
            names = list(content[0])
            columns = choose_columns(names, str(path), options.image_column, options.caption_column)
            found = (row for record in content for row in record_rows(record, columns, str(path)))
            return CaptionRows(found, understood | {"columns": columns.shown})


def _form(content: Any, path: Path) -> str:
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        return "records"
    images = content.get("images") if isinstance(content, dict) else None
    if isinstance(images, list) and images and isinstance(images[0], dict):
        if "sentences" in images[0]:
            return "karpathy"
        if isinstance(content.get("annotations"), list):
            return "coco"
    fix = "COCO (images, annotations), Karpathy (images with sentences) or a list of records"
    raise UserError("JSON of no known form", where=str(path), fix=fix)


def _coco_rows(content: dict[str, Any], path: Path) -> Iterator[CaptionRow]:
    images = _images_by_id(content["images"], path)
    for annotation in content["annotations"]:
        image = images.get(annotation.get("image_id"))
        if "caption" not in annotation:
            fix = "COCO's captions are in the files named captions_*.json"
            raise UserError("an annotation without a caption", where=str(path), fix=fix)
        if image is None or "file_name" not in image:
            problem = f"no image with id {annotation.get('image_id')!r} and a file_name"
            raise UserError(problem, where=str(path))
        credits = {name: image[name] for name in COCO_CREDITS if name in image}
        metadata = {"image_id": image["id"]} | credits
        split = str(image.get("split", ""))
        yield CaptionRow(image["file_name"], annotation["caption"] or "", split, metadata)


def _images_by_id(images: list[dict[str, Any]], path: Path) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for image in images:
        other = found.setdefault(image.get("id"), image)
        if other.get("file_name") != image.get("file_name"):
            names = f"{other.get('file_name')} and {image.get('file_name')}"
            problem = f"two pictures under one id, {image.get('id')!r}: {names}"
            raise UserError(problem, where=str(path), fix="give each picture an id of its own")
    return found


def _karpathy_rows(images: list[dict[str, Any]], restval: str) -> Iterator[CaptionRow]:
    """Rows of Karpathy's splits; "restval" (val2014 beyond his own val and test) as told."""
    for image in images:
        name = f"{image.get('filepath', '')}/{image.get('filename', '')}".lstrip("/")
        number = image.get("cocoid", image.get("imgid"))
        metadata = {} if number is None else {"image_id": number}
        split = str(image.get("split", ""))
        if split == "restval" and restval:
            split = restval
        for sentence in image["sentences"]:
            text = sentence.get("raw") or " ".join(sentence.get("tokens", ()))
            yield CaptionRow(name, text, split, metadata)


def _encoding(path: Path, options: CaptionOptions) -> str:
    return check_encoding(path, options.encoding) if options.encoding else detect_encoding(path)
