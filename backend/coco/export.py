"""A project's groups -> one COCO file of parts, from the host's API or from a JSON export: resumable, counted.

Label Studio's rows are of the displayed (upright) frame, and so is the COCO file. Tools that read stored pixels see
images with another EXIF orientation turned: those are listed, and `write_images` writes upright copies.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from backend.coco.display_copies import enlarged
from backend.coco.images import FolderImages, ImageFiles, write_upright
from backend.coco.task_files import UNNUMBERED, Chosen, Task, choose, file_name_of
from backend.codecs.annotation import DecodedAnnotation, decode_annotation
from backend.codecs.config import task_images
from backend.codecs.controls import LabelingConfig
from backend.codecs.rows import Size, read_rows
from backend.codecs.task_data import Original, originals_of
from calico.coco.dataset import Findings
from calico.coco.encode import CocoOptions, ImageEntry, encode_group
from calico.coco.orientation import Header, read_header
from calico.coco.writer import CocoWriter
from calico.errors import InputError
from calico.values import CoSegmentation, whole_number

log = logging.getLogger(__name__)

SAVE_EVERY = 20  # tasks
_PLACEHOLDER: Size = (1000, 1000)  # for the shapes of an image of unknown size, which are then left out


@dataclass
class Coverage:
    """What came into the file, and what did not, why. Counts of tasks, but for images, annotations and problems.

    skipped: whole tasks by reason. problems: regions and images by reason. turned: images whose EXIF orientation is not
    1, [file name, orientation]. unread: images that could not be looked at, so whose orientation is not known.
    """

    tasks: int = 0
    tasks_exported: int = 0
    images: int = 0
    annotations: int = 0
    categories: int = 0
    unread: int = 0
    same_file_name: int = 0
    skipped: Findings = field(default_factory=Findings)
    problems: Findings = field(default_factory=Findings)
    turned: list[list[Any]] = field(default_factory=list)

    def text(self) -> str:
        """A line each; what did not happen is left out."""
        lines = [
            f"{self.tasks_exported} of {self.tasks} tasks exported: {self.images} images, {self.annotations} "
            f"annotations, {self.categories} categories"
        ]
        lines += [f"{count:>7} tasks skipped: {code}" for code, count in sorted(self.skipped.counts.items())]
        lines += [f"{count:>7} problems: {code}" for code, count in sorted(self.problems.counts.items())]
        if self.unread:
            lines.append(f"{self.unread:>7} images could not be looked at: their orientation is not known")
        if self.turned:
            lines.append(f"{len(self.turned):>7} images are stored turned: use --write-images for tools without EXIF")
        if self.same_file_name:
            lines.append(f"{self.same_file_name:>7} images share a file name: use --write-images to part them")
        return "\n".join(lines)


@dataclass(frozen=True)
class ExportOptions:
    """source: what is exported of a task. model_version: of predictions, else the newest.

    write_images: the folder of upright copies, which `file_name` then names.
    """

    coco: CocoOptions = CocoOptions()  # noqa: RUF009  frozen
    source: Literal["annotations", "predictions"] = "annotations"
    model_version: str | None = None
    write_images: Path | None = None


class CocoExporter:
    """One export. config: of the project. images: None where image files are not to be looked at."""

    def __init__(
        self, writer: CocoWriter, config: LabelingConfig, options: ExportOptions, images: ImageFiles | None = None
    ) -> None:
        if options.write_images is not None and images is None:
            raise InputError("--write-images: nothing gives the images; name their folder with --images")
        self._writer, self._config, self._options, self._images = writer, config, options, images
        self._coverage = Coverage()
        self._after = 0

    def run(
        self,
        tasks_after: Callable[[int, int], Iterable[Task]],
        on_progress: Callable[[Coverage], None] = lambda coverage: None,
    ) -> Coverage:
        """Goes through all tasks and finishes the file.

        tasks_after: (id of the last task done, how many were done) -> the tasks that are left, in a fixed order.
        """
        if self._writer.saved is not None:
            self._restore(self._writer.saved)
            log.info("going on after %d tasks", self._coverage.tasks)
        groups = {row["group_id"] for row in self._writer.images()}
        for task in tasks_after(self._after, self._coverage.tasks):
            self._coverage.tasks += 1
            number = whole_number(task.get("id"))
            if number is None or not 0 <= number < UNNUMBERED:
                number = UNNUMBERED + self._coverage.tasks  # its place, beyond the ids that tasks have
            else:
                self._after = number
            if number in groups:
                self._coverage.skipped.add("duplicate_task", f"task {number}: its id stands twice in the export")
            elif self._export(task, number):
                groups.add(number)
            if self._coverage.tasks % SAVE_EVERY == 0:
                self._writer.save({"after": self._after, "coverage": asdict(self._coverage)})
                on_progress(self._count())
        self._note_files()
        self._count().categories = self._writer.finish()
        on_progress(self._coverage)
        return self._coverage

    def _count(self) -> Coverage:
        self._coverage.images, self._coverage.annotations = self._writer.num_images, self._writer.num_annotations
        return self._coverage

    def _restore(self, saved: Mapping[str, Any]) -> None:
        coverage: dict[str, Any] = {**saved["coverage"]}
        coverage |= {name: Findings(**coverage[name]) for name in ("skipped", "problems")}
        self._coverage, self._after = Coverage(**coverage), saved["after"]

    def _note_files(self) -> None:
        """What the image rows tell together."""
        names: Counter[str] = Counter()
        for row in self._writer.images():
            names[row["file_name"]] += 1
            if row.get("exif_orientation", 1) != 1:
                self._coverage.turned.append([row["file_name"], row["exif_orientation"]])
        self._coverage.same_file_name = sum(count for count in names.values() if count > 1)

    def _export(self, task: Task, number: int) -> bool:
        """Whether the task is in the file; if not, the coverage says why."""
        coverage, options = self._coverage, self._options
        chosen = choose(task, options.source, options.model_version)
        if chosen is None:
            coverage.skipped.add(f"no_{options.source[:-1]}", f"task {number}: nothing to export")
            return False
        if chosen.others:
            coverage.problems.add(
                "other_annotations", f"task {number}: one of {chosen.others + 1} taken", chosen.others
            )
        try:
            addresses = task_images(self._config, task["data"])
            originals = originals_of(task["data"], len(addresses))
            if originals:
                addresses = [original.file for original in originals]
                looked = [self._look_at_original(original, number) for original in originals]
                sizes = self._sizes(chosen.result, [None] * len(originals))
            else:
                looked = [self._look(address, number) for address in addresses]
                sizes = self._sizes(chosen.result, looked)
            decoded = decode_annotation(
                chosen.result, self._config, [size or _PLACEHOLDER for size in sizes], task_data=task["data"]
            )
            if originals:
                decoded, sizes = _at_size_of(originals, decoded), [original.size_hw for original in originals]
            entries = [
                self._entry(address, seen, number, image) if sizes[image] is not None else None
                for image, (address, seen) in enumerate(zip(addresses, looked, strict=True))
            ]
            scored = self._scored(decoded.cosegmentation, decoded.row_ids, chosen)
            provenance = {"task": number, **chosen.provenance}
            encoded = encode_group(scored, entries, number, options.coco, provenance=provenance)
        except InputError as error:
            coverage.skipped.add("unreadable_task", f"task {number}: {error}")
            return False
        for image, entry in enumerate(entries):
            if entry is None:
                message = f"task {number}: image {image + 1} tells no size; name the folder of images with --images"
                coverage.problems.add("unknown_size", message)
        coverage.problems.add_all([*decoded.problems, *encoded.problems], f"task {number}: ")
        if not encoded.images:
            coverage.skipped.add("no_image", f"task {number}: the size of none of its images is known")
            return False
        self._writer.add(encoded)
        coverage.tasks_exported += 1
        return True

    def _look(self, address: str, task: int) -> tuple[Header, bytes] | None:
        if self._images is None:
            return None
        try:
            content = self._images.content(address, task)
            return read_header(content), content
        except InputError as error:
            self._coverage.unread += 1
            self._coverage.problems.add("unread_image", f"task {task}: {error}")
            return None

    def _look_at_original(self, original: Original, task: int) -> tuple[Header, bytes] | None:
        """In the folder of images only: the host has its copy."""
        if not isinstance(self._images, FolderImages):
            if self._options.write_images is not None:
                raise InputError("its images are reduced copies; name the folder of the originals with --images")
            return None
        seen = self._look(original.file, task)
        if seen is not None and seen[0].size_hw != original.size_hw:
            raise InputError(f"{original.file}: is {seen[0].size_hw} (height, width), its copy was of an image of "
                             f"{original.size_hw}; put the one that was copied back")  # fmt: skip
        return seen

    def _sizes(self, rows: Sequence[Any], looked: Sequence[tuple[Header, bytes] | None]) -> list[Size | None]:
        """(height, width) of every image: of its file, else as its rows tell."""
        sizes = [seen[0].size_hw if seen else None for seen in looked]
        for region in read_rows(rows, self._config).regions.values():
            image = self._config.image_of(region.to_name, region.item_index)
            if image is not None and 0 <= image < len(sizes):
                sizes[image] = sizes[image] or region.size_hw
        return sizes

    def _entry(self, address: str, seen: tuple[Header, bytes] | None, task: int, image: int) -> ImageEntry:
        name = file_name_of(address)
        more: dict[str, Any] = {} if address.startswith("data:") else {"source": address}
        fallback = f"task-{task}-image-{image + 1}"
        if seen is None:
            return ImageEntry(name or fallback, more)
        header, content = seen
        if self._options.write_images is not None:
            stem = re.sub(r"[^\w.-]+", "_", Path(name).stem)[:80]
            stem = f"{task}-{image + 1}-{stem}" if stem else fallback
            return ImageEntry(write_upright(content, header, self._options.write_images, stem), more)
        if header.orientation != 1:
            more["exif_orientation"] = header.orientation
        return ImageEntry(name or fallback, more)

    def _scored(self, coseg: CoSegmentation, row_ids: Mapping[Any, tuple[str, ...]], chosen: Chosen) -> CoSegmentation:
        """With the scores of a prediction's rows; what a human drew keeps 1."""
        if self._options.source == "annotations":
            return coseg
        scores: dict[str, float] = {}
        for row in chosen.result:
            if isinstance(row, Mapping) and isinstance(row.get("score"), (int, float)) and 0 <= row["score"] <= 1:
                scores[str(row.get("id"))] = float(row["score"])
        regions = []
        for region in coseg.regions:
            region_scores = [scores[row] for row in row_ids.get(region.key, ()) if row in scores]
            regions.append(replace(region, score=max(region_scores)) if region_scores else region)
        return CoSegmentation(coseg.sizes_hw, tuple(regions), coseg.answers, coseg.problems)


def _at_size_of(originals: Sequence[Original], decoded: DecodedAnnotation) -> DecodedAnnotation:
    """An annotation of reduced copies with its masks at the size of the originals."""
    coseg = decoded.cosegmentation
    regions = tuple(replace(r, mask=enlarged(r.mask, originals[r.image].size_hw)) for r in coseg.regions)
    sizes = tuple(original.size_hw for original in originals)
    return replace(decoded, cosegmentation=CoSegmentation(sizes, regions, coseg.answers, coseg.problems))
