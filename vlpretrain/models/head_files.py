"""What a task adds to a model, beside its model in an export folder: `NAME.safetensors`, and
`NAME.json` which describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from vlpretrain import __version__
from vlpretrain.errors import UserError
from vlpretrain.models.weights import (
    load_exactly,
    read_description,
    read_weights,
    save_description,
    save_weights,
)

SpecT = TypeVar("SpecT")
HeadT = TypeVar("HeadT", bound=nn.Module)


@dataclass(frozen=True)
class HeadFiles(Generic[SpecT]):
    """The two files of one kind of head.

    Attributes:
        name: of the files, and of the head in messages.
        spec_of: the description's values to a spec; KeyError, TypeError or ValueError where they
            are not understood.
    """

    name: str
    spec_of: Callable[[Mapping[str, Any]], SpecT]

    @property
    def description(self) -> str:
        return f"{self.name}.json"

    @property
    def weights(self) -> str:
        return f"{self.name}.safetensors"

    def save(self, spec: Any, state: dict[str, Tensor], folder: Path) -> None:
        """Writes both files. Each is whole or absent; the description comes last, and an older
        one goes first."""
        folder.mkdir(parents=True, exist_ok=True)
        self.remove(folder)
        save_weights(state, folder / self.weights)
        description = {"version": __version__, self.name: asdict(spec)}
        save_description(description, folder / self.description)

    def load(self, folder: Path, create: Callable[[SpecT], HeadT]) -> HeadT | None:
        """The head in evaluation mode; None where the folder has none.

        Args:
            create: the module that a spec describes.

        Raises:
            UserError: damaged files, or those of another model.
        """
        spec = self.read(folder)
        if spec is None:
            return None
        head = create(spec)
        weights = folder / self.weights
        load_exactly(head, read_weights(weights), weights, self.description)
        return head.eval()

    def read(self, folder: Path) -> SpecT | None:
        """What the head is made of; None where the folder has none.

        Raises:
            UserError: a damaged description, or one of another version.
        """
        path = folder / self.description
        if not path.is_file():
            return None
        content = read_description(path)
        try:
            return self.spec_of(content[self.name])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"describes {self.name} files that version {__version__} does not know: {error}",
                where=str(path),
                fix=f"the version that wrote it ({content.get('version', 'unknown')})",
            ) from error

    def remove(self, folder: Path) -> None:
        """Takes both files away, if they are there, the description first."""
        for name in (self.description, self.weights):
            (folder / name).unlink(missing_ok=True)
