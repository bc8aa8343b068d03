"""The index of pictures: exact search whatever its size, and a file that reads back."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vlpretrain.errors import UserError
from vlpretrain.tasks import picture_index
from vlpretrain.tasks.picture_index import Hit, PictureFile, PictureIndex, load_index, save_index

NAMES = ("a.jpg", "below/b c.png", "line\nbreak.jpg", "öß.webp", "\udcff.jpg")


def make_index(names: tuple[str, ...], embedding_NE: torch.Tensor) -> PictureIndex:
    files = tuple(PictureFile(name, row, 10**18 + row) for row, name in enumerate(names))
    return PictureIndex(Path("/pictures \udcfe"), Path("/export"), "abc", files, embedding_NE)


def test_it_reads_back(tmp_path: Path) -> None:
    index = make_index(NAMES, torch.randn(len(NAMES), 4))
    save_index(index, tmp_path / "new" / "index.safetensors")
    again = load_index(tmp_path / "new" / "index.safetensors")
    assert torch.equal(again.embedding_NE, index.embedding_NE)
    assert (again.folder, again.model, again.fingerprint, again.files) == (
        index.folder,
        index.model,
        index.fingerprint,
        index.files,
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index.safetensors"]


@pytest.mark.parametrize("top", [1, 3, 20])
def test_search_equals_sorting_in_chunks_of_any_size(
    top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = torch.Generator().manual_seed(0)
    embedding_NE = torch.randint(-1, 2, (20, 3), generator=random).float()  # many ties
    index = make_index(tuple(f"{row}.jpg" for row in range(20)), embedding_NE)
    query_E = torch.tensor([1.0, 2.0, -1.0])
    order = sorted(range(20), key=lambda row: (-float(embedding_NE[row] @ query_E), row))
    expected = [Hit(row, float(embedding_NE[row] @ query_E)) for row in order[:top]]
    for chunk in (1, 3, 7, 100):
        monkeypatch.setattr(picture_index, "CHUNK", chunk)
        assert index.search(query_E, top) == expected


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such index"):
        load_index(tmp_path / "absent")
    (tmp_path / "text").write_text("a text")
    save_file({"weight": torch.ones(2)}, tmp_path / "weights.safetensors")
    for name in ("text", "weights.safetensors"):
        with pytest.raises(UserError, match="is no index of pictures"):
            load_index(tmp_path / name)
