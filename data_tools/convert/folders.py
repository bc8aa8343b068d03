"""Class folders: DIR/CLASS/picture.jpg, the class is the picture's label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from data_tools.assembly import SampleJob, WritingOptions, Written, named, write_samples
from data_tools.output import new_folder
from data_tools.progress import tracked
from vlpretrain.data.keyed import stable_hash
from vlpretrain.errors import UserError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(slots=True)
class FolderReport:
    """What was found and written."""

    classes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    other_files: list[str] = field(default_factory=list)
    written: Written = field(default_factory=Written)

    def lines(self) -> list[str]:
        """The summary for the screen."""
        lines = [named("classes", self.classes)]
        if self.empty:
            lines.append(named("folders without a picture left out", self.empty))
        if self.other_files:
            lines.append(named("files that are no picture by their name", self.other_files))
        counted = f"{self.written.samples:,} labelled pictures, {self.written.shards} shards"
        return [*lines, *self.written.problem_lines(), counted]


def convert_folders(images: Path, out: Path, split: str, writing: WritingOptions) -> FolderReport:
    """Writes a sample a picture, the classes mixed as stable_hash of the name orders them.

    A shard of one class alone would be a batch of one class, however it is shuffled within.
    """
    if not images.is_dir():
        raise UserError("no such folder", where=str(images), fix="check --images")
    report = FolderReport()
    found = list(tracked(_pictures(images, report), "pictures found"))
    found.sort(key=lambda item: stable_hash("/".join(item)))
    if len(report.classes) < 2:
        problem = named("class folders with pictures: at least 2 are needed", report.classes)
        fix = "pictures lie in a folder for each class: DIR/CLASS/picture.jpg"
        deeper = next(images.glob("*/*/*.*"), None)
        if deeper is not None and not report.classes:
            fix = f"name the folder that holds the class folders, such as {deeper.parent.parent}"
        raise UserError(problem, where=str(images), fix=fix)
    with new_folder(out, overwrite=writing.overwrite) as folder:
        jobs = [
            _job(number, images, item, split, writing.resize) for number, item in enumerate(found)
        ]
        report.written = write_samples(folder, jobs, writing)
    return report


def _pictures(images: Path, report: FolderReport) -> list[tuple[str, str]]:
    """(class, file name) of every picture; hidden folders and files are passed over."""
    found: list[tuple[str, str]] = []
    for folder in sorted(path for path in images.iterdir() if path.is_dir()):
        if folder.name.startswith("."):
            continue
        before = len(found)
        for name in sorted(path.name for path in folder.iterdir()):
            if name.lower().endswith(PICTURE_SUFFIXES):
                found.append((folder.name, name))
            elif not name.startswith("."):
                report.other_files.append(f"{folder.name}/{name}")
        (report.classes if len(found) > before else report.empty).append(folder.name)
    return found


def _job(
    number: int, images: Path, item: tuple[str, str], split: str, resize: int | None
) -> SampleJob:
    label, name = item
    record = {"image_id": f"{label}/{name}", "file_name": name, "label": label}
    if split:
        record["split"] = split
    path = images / label / name
    return SampleJob(f"{number:09d}", f"{label}/{name}", (path,), record, resize)
