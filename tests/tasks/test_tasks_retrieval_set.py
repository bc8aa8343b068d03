"""Which captions belong to which pictures, and what is refused."""

from collections.abc import Sequence

import pytest
import torch

from vlpretrain.errors import UserError
from vlpretrain.tasks.retrieval_set import CaptionedPicture, RetrievalSet, make_retrieval_set


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [[2, *(5 + len(word) for word in text.split()), 3] for text in texts]


def load_pixels(rows: Sequence[int]) -> torch.Tensor:
    """Rows 0 and 1 show the same picture."""
    return torch.tensor([max(row, 1) for row in rows], dtype=torch.uint8).view(-1, 1, 1, 1)


def make(*pictures: CaptionedPicture, **options) -> RetrievalSet:
    return make_retrieval_set(pictures, encode, 0, load_pixels, **options)


def test_captions_belong_to_their_picture_alone() -> None:
    data = make(
        CaptionedPicture("a", ("a dog", "a black dog")),
        CaptionedPicture("b", ()),
        CaptionedPicture("c", ("a dog",)),
    )
    assert data.texts == ("a dog", "a black dog", "a dog")
    assert data.text_ids == ((2, 6, 8, 3), (2, 6, 10, 8, 3), (2, 6, 8, 3))
    assert data.images_of == ((0,), (0,), (2,))
    assert data.texts_of == ((0, 1), (), (2,))
    assert data.asking_images == (0, 2)


def test_equal_captions_can_count_as_the_same() -> None:
    data = make(
        CaptionedPicture("a", ("a dog", "a black dog")),
        CaptionedPicture("b", ("two cats",)),
        CaptionedPicture("c", ("A dog",)),
        caption_id=str.lower,
    )
    assert data.images_of == ((0, 2), (0,), (1,), (0, 2))
    assert data.texts_of == ((0, 1, 3), (2,), (0, 3))


def test_rows_of_one_id_and_one_picture_are_joined() -> None:
    data = make(
        CaptionedPicture("a", ("a dog",), image_id=7),
        CaptionedPicture("b", ("a dog", "it barks"), image_id=7),
        CaptionedPicture("c", ("a cat",), image_id="7"),
    )
    assert data.keys == ("a", "c")
    assert data.texts == ("a dog", "it barks", "a cat")
    assert data.image_of_text == (0, 0, 1)
    assert torch.equal(data.load_pixels([1, 0]), load_pixels([2, 0]))


def test_two_pictures_under_one_id_are_refused() -> None:
    with pytest.raises(UserError, match="two pictures under the id 7: b and c"):
        make(
            CaptionedPicture("a", ("a dog",), image_id=6),
            CaptionedPicture("b", ("a cat",), image_id=7),
            CaptionedPicture("c", ("a cat",), image_id=7),
        )


@pytest.mark.parametrize("pictures", [(), (CaptionedPicture("a", ()),)])
def test_no_caption_at_all_is_refused(pictures: tuple[CaptionedPicture, ...]) -> None:
    with pytest.raises(UserError, match=f"none of the {len(pictures)} pictures has a caption"):
        make(*pictures)
