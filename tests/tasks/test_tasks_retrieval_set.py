"""Which captions belong to which pictures, and what is refused."""

import pytest
import torch

from vlpretrain.errors import UserError
from vlpretrain.tasks.retrieval_set import RetrievalSet


def make(
    images: int, image_of_text: tuple[int, ...], text_group: tuple[int, ...] | None = None
) -> RetrievalSet:
    return RetrievalSet(
        keys=tuple(f"picture {row}" for row in range(images)),
        texts=tuple(f"text {row}" for row in range(len(image_of_text))),
        text_ids=((2, 3),) * len(image_of_text),
        image_of_text=image_of_text,
        pad_id=0,
        load_pixels=lambda rows: torch.zeros(len(rows), 3, 8, 8, dtype=torch.uint8),
        text_group=text_group,
    )


def test_captions_belong_to_their_picture_alone() -> None:
    data = make(3, (0, 2, 0))
    assert data.images_of == ((0,), (2,), (0,))
    assert data.texts_of == ((0, 2), (), (1,))
    assert data.asking_images == (0, 2)


def test_captions_of_one_group_are_relevant_to_all_pictures_that_have_one_of_it() -> None:
    data = make(3, (0, 0, 1, 2), text_group=(7, 4, 5, 7))
    assert data.images_of == ((0, 2), (0,), (1,), (0, 2))
    assert data.texts_of == ((0, 1, 3), (2,), (0, 3))


@pytest.mark.parametrize("images", [0, 3])
def test_no_caption_at_all_is_refused(images: int) -> None:
    with pytest.raises(UserError, match=f"none of the {images} pictures has a caption"):
        make(images, ())


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="beyond the pictures"):
        make(2, (0, 2))
    with pytest.raises(ValueError, match="2 texts"):
        make(2, (0, 1), text_group=(0,))
