"""Labels of records: names, numbers, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from labelled_shards import png

from vlpretrain.data.labels import ClassList, LabelRecipe, class_name, in_order
from vlpretrain.data.sample import SampleError
from vlpretrain.data.transforms import PictureSettings
from vlpretrain.types import COUNTS, Sample

SETTINGS = PictureSettings(image_size=8)


def sample(label: Any, image: bytes | None = b"") -> Sample:
    return Sample("key", "a.tar", image, (), {} if label is None else {"label": label})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b", "a", "b"], ("a", "b")),
        (["10", "9", "0", "9"], ("0", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
    ],
)
def test_classes_are_in_the_order_of_the_alphabet_or_of_their_numbers(
    names: list[str], expected: tuple[str, ...]
) -> None:
    assert in_order(names) == expected


@pytest.mark.parametrize(
    ("names", "label", "place"),
    [
        (("ant", "bee"), "bee", 1),
        (("0", "7", "10"), 7, 1),  # a number that is a name
        (("ant", "bee"), 1, 1),  # the place, where the names are words
        (("ant", "bee"), "1", 1),
    ],
)
def test_a_label_finds_its_class(names: tuple[str, ...], label: Any, place: int) -> None:
    assert ClassList(names).index(sample(label)) == place


@pytest.mark.parametrize(
    ("names", "label", "expected"),
    [
        (("ant", "bee"), "cat", "label 'cat' is none of the 2 classes"),
        (("ant", "bee"), 2, "label '2' is none"),
        (("ant", "bee"), -1, "label '-1' is none"),
        (("3", "5"), 1, "label '1' is none"),  # the names are numbers: 1 is no place
        (("ant", "bee"), None, "no label"),
        (("ant", "bee"), "", "no label"),
        (("ant", "bee"), ["ant"], "`label` is a list, not a name or a number"),
        (("ant", "bee"), True, "`label` is a bool"),
        (("ant", "bee"), 1.5, "`label` is a float"),
    ],
)
def test_a_label_that_is_no_class_is_said(
    names: tuple[str, ...], label: Any, expected: str
) -> None:
    with pytest.raises(SampleError, match=expected):
        ClassList(names).index(sample(label))


def test_a_number_names_its_class() -> None:
    assert class_name(sample(0)) == "0"
    assert class_name(sample("ant")) == "ant"


def test_a_micro_batch_counts_the_rows_with_a_class() -> None:
    recipe = LabelRecipe(SETTINGS, ClassList(("ant", "bee")))
    rows = [recipe.row(sample("bee", png("red", 0)), 0, 0), recipe.blank()]
    batch = recipe.collate(rows)
    assert batch.label_B.tolist() == [1, -1]
    assert batch.counts[COUNTS.index("labels")] == 1
    assert batch.pixels_BCHW.shape == (2, 3, 8, 8)
    assert not batch.pixels_BCHW[1].any()
    assert torch.equal(batch.counts, batch.mean_counts)


@pytest.mark.parametrize(
    ("given", "expected"), [(sample("ant", None), "no picture"), (sample("ant", b"x"), "picture")]
)
def test_a_row_without_a_usable_picture_is_said(given: Sample, expected: str) -> None:
    with pytest.raises(SampleError, match=expected):
        LabelRecipe(SETTINGS, ClassList(("ant", "bee"))).row(given, 0, 0)
