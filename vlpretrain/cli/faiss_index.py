"""faiss beside an index of pictures: approximate, for millions of them. Nobody needs it installed.

Shapes: N pictures, E embedding width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vlpretrain.errors import UserError
from vlpretrain.tasks.picture_index import Hit, PictureIndex, new_file

# Below so many pictures every one is compared; above, those of the lists nearest to the query.
EXACT_BELOW = 50_000
PICTURES_A_LIST, PICTURES_TO_LEARN_A_LIST = 1000, 64
LISTS_SEARCHED = 32


def need_faiss() -> Any:
    """The module.

    Raises:
        UserError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "faiss is not installed",
            where="--faiss",
            fix="pip install 'vlpretrain[faiss]'; without --faiss the search is exact",
        ) from error
    return faiss


def write_faiss(embedding_NE: Tensor, index: Path) -> None:
    """An inverted file of inner products, whole or not at all."""
    faiss = need_faiss()
    rows = embedding_NE.numpy()
    count, width = rows.shape
    quantiser = faiss.IndexFlatIP(width)
    found = quantiser
    if count >= EXACT_BELOW:
        lists = count // PICTURES_A_LIST
        found = faiss.IndexIVFFlat(quantiser, width, lists, faiss.METRIC_INNER_PRODUCT)
        found.train(rows[:: max(1, count // (lists * PICTURES_TO_LEARN_A_LIST))])
    found.add(rows)
    with new_file(faiss_path(index)) as partial:
        faiss.write_index(found, str(partial))


def search_faiss(index: PictureIndex, path: Path, query_E: Tensor, top: int) -> list[Hit]:
    """The nearest pictures as faiss finds them.

    Raises:
        UserError: there is no such index beside `path`, or it's of other pictures.
    """
    faiss = need_faiss()
    if not faiss_path(path).is_file():
        raise UserError(
            "there is no faiss index beside",
            where=str(path),
            fix="vlpretrain index-images ... --faiss, or a search without --faiss",
        )
    found = faiss.read_index(str(faiss_path(path)))
    if found.ntotal != len(index.files) or found.d != len(query_E):
        raise UserError(
            f"the faiss index holds {found.ntotal} pictures, the index {len(index.files)}",
            where=str(faiss_path(path)),
            fix="vlpretrain index-images ... --faiss makes both anew",
        )
    if hasattr(found, "nprobe"):
        found.nprobe = LISTS_SEARCHED
    scores, rows = found.search(query_E[None].numpy(), min(top, found.ntotal))
    pairs = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
    return [Hit(row, score) for row, score in pairs if row >= 0]  # -1: no more in those lists


def remove_faiss(index: Path) -> None:
    if faiss_path(index).is_file():
        faiss_path(index).unlink()


def faiss_path(index: Path) -> Path:
    return index.with_name(f"{index.name}.faiss")
