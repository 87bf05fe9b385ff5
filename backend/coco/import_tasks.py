"""A COCO file of parts -> grouped Label Studio tasks with predictions or annotations, so that it can seed a project.

Masks come out in the displayed frame. Other tools' files are of stored pixels: where an image file has an EXIF
orientation, its masks are turned by it; our own export says that its masks are upright already.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from backend.coco.display_copies import DisplayCopies, reduced
from backend.codecs.config import task_images
from backend.codecs.controls import LabelingConfig
from backend.codecs.parts import Vocabulary, brings_parts, with_parts
from backend.codecs.prediction import encode_prediction
from backend.codecs.task_data import Original, address_below, originals_data, task_address
from calico.coco.dataset import CocoDataset
from calico.coco.grouping import ObjectGroup, cosegmentation_of, group_objects
from calico.coco.orientation import Header, read_header
from calico.coco.rows import ImageRow
from calico.data.image_files import ImageFolder, is_address
from calico.errors import InputError
from calico.files import written_whole
from calico.values import CoSegmentation

#: Where an image row may hold the address of its image.
ADDRESS_KEYS = ("source", "file_name", "coco_url", "flickr_url", "url", "image_url", "path")


@dataclass(frozen=True)
class Placed:
    """Where the host finds an image, the EXIF orientation that its masks must still be turned by, and its file."""

    address: str
    turn: int = 1
    path: Path | None = None


@dataclass(frozen=True)
class ImagePlaces:
    """folder: of the image files; None takes the addresses in the file (`source`, `coco_url`).

    prefix, document_root: as in `task_address`. With a prefix and no folder no image file is looked at. copies: where
    tasks show reduced copies of the files, below whose folder the host finds them.
    """

    folder: Path | None = None
    prefix: str | None = None
    document_root: Path | None = None
    copies: DisplayCopies | None = None

    def place(self, image: ImageRow, *, is_upright: bool) -> Placed:
        """Raises InputError where the image is missing, or is not the one that was annotated."""
        if self.folder is None:
            return Placed(self._address(image))
        path = self._images.find(image.file_name)
        if path is None:
            raise InputError("no such file in the folder of images")
        turn = _turn(image.size_hw, read_header(path), is_upright)
        if self.copies is not None:
            return Placed("", turn, path)
        return Placed(self._address_of(path, self.folder), turn, path)

    def shown(self, place: Placed, mask_hw: tuple[int, int]) -> tuple[str, tuple[int, int], Original | None]:
        """The address that a task shows, the size of masks on it, and of what it is a copy. mask_hw: the image's."""
        if self.copies is None or place.path is None:
            return place.address, mask_hw, None
        copy = self.copies.copy(str(place.path))
        address = self._address_of(copy.path, self.copies.out)
        return address, copy.shown_hw, Original(copy.original, copy.size_hw)

    def _address_of(self, path: Path, folder: Path) -> str:
        return task_address(str(path), folder, prefix=self.prefix, document_root=self.document_root)

    @cached_property
    def _images(self) -> ImageFolder:
        assert self.folder is not None
        return ImageFolder(self.folder)

    def size_of(self, file_name: str) -> tuple[int, int] | None:
        """(height, width) of an image file as it is stored, which COCO masks are of; None where it is missing."""
        try:
            path = None if self.folder is None else self._images.find(file_name)
            return None if path is None else read_header(path).stored_size_hw
        except InputError:
            return None

    def _address(self, image: ImageRow) -> str:
        for key in ADDRESS_KEYS:
            address = image.row.get(key)
            if isinstance(address, str) and is_address(address.strip()) and not (self.prefix and key != "file_name"):
                return address.strip()
        if self.prefix is not None:
            return address_below(self.prefix, image.file_name)
        raise InputError("the file gives no address of it; name the folder of images with --images")


def _turn(size_hw: tuple[int, int], header: Header, is_upright: bool) -> int:
    """The EXIF orientation by which masks of that size come into the displayed frame of an image file.

    A size that fits both frames (square, or turned by 180 degrees) is taken for the stored one, which COCO tools read.
    """
    if not is_upright and size_hw == header.stored_size_hw:
        return header.orientation
    if size_hw == header.size_hw:
        return 1
    raise InputError(f"it is {header.size_hw}, the file says {size_hw} (height, width); was it scaled?")


@dataclass
class ImportCounts:
    tasks: int = 0
    images: int = 0
    regions: int = 0
    turned: list[str] = field(default_factory=list)


class CocoImporter:
    """One file: its `groups`, made of the images that are there, and their `tasks`. kind: what the tasks bring."""

    def __init__(
        self,
        dataset: CocoDataset,
        places: ImagePlaces,
        *,
        group_size: int = 2,
        only_with_parts: bool = False,
        kind: Literal["predictions", "annotations"] = "predictions",
        model_version: str = "coco",
    ) -> None:
        self._findings, self._kind, self._model_version = dataset.findings, kind, model_version
        self.counts = ImportCounts()
        self._images, self._places = places, dict[Any, Placed | None]()
        self._vocabulary = Vocabulary()
        objects = []
        for item in dataset.objects:
            if only_with_parts and all(part is None for part in item.part_names):
                self._findings.add("object_without_parts", f"{item.object_name!r} of {item.image.file_name}")
            elif self._place(item.image, places, dataset.is_upright):
                objects.append(item)
        self.groups = group_objects(replace(dataset, objects=tuple(objects)), group_size)

    @property
    def group_sizes(self) -> set[int]:
        return {len(group.objects) for group in self.groups}

    def _place(self, image: ImageRow, places: ImagePlaces, is_upright: bool) -> Placed | None:
        if image.id not in self._places:
            self._places[image.id] = None
            try:
                self._places[image.id] = placed = places.place(image, is_upright=is_upright)
                if placed.turn != 1:
                    self.counts.turned.append(image.file_name)
            except InputError as error:
                self._findings.add("missing_image", f"{image.file_name}: {error}")
        return self._places[image.id]

    def tasks(self, config: LabelingConfig) -> Iterator[dict[str, Any]]:
        """One per group that has a region; those that do not fit are findings."""
        for number, group in enumerate(self.groups, start=1):
            try:
                task = self._task(group, config, number)
            except InputError as error:
                self._findings.add("unusable_group", f"group {number} ({group.name}): {error}")
                continue
            self.counts.tasks += 1
            self.counts.images += len(group.objects)
            yield task

    def _task(self, group: ObjectGroup, config: LabelingConfig, number: int) -> dict[str, Any]:
        placed = [self._places[item.image.id] for item in group.objects]
        assert all(placed)
        turns = [place.turn for place in placed if place]
        coseg = cosegmentation_of(group, self._findings, orientations=turns)
        if not coseg.regions:
            raise InputError("none of its masks can be read")
        copies = [
            self._images.shown(place, size) for place, size in zip(filter(None, placed), coseg.sizes_hw, strict=True)
        ]
        coseg = _of_sizes(coseg, [size for _, size, _ in copies])
        data = data_of(config, [address for address, _, _ in copies], name=group.name)
        data |= originals_data([original for _, _, original in copies if original])
        if brings_parts(config):
            data = with_parts(data, coseg, config, self._vocabulary)
        encoded = encode_prediction(
            coseg, config, model_version=self._model_version, task_id=f"{group.name} {number}", task_data=data
        )
        self._findings.add_all(encoded.problems, f"group {number} ({group.name}): ")
        regions = {row["id"] for row in encoded.prediction["result"] if "id" in row}
        if not regions:
            raise InputError("none of its regions has a label in the config")
        self.counts.regions += len(regions)
        if self._kind == "predictions":
            return {"data": data, "predictions": [encoded.prediction]}
        rows = [{k: v for k, v in row.items() if k != "score"} for row in encoded.prediction["result"]]
        rows = [{**row, "origin": "manual"} if "origin" in row else row for row in rows]
        return {"data": data, "annotations": [{"result": rows}]}


def _of_sizes(coseg: CoSegmentation, sizes_hw: Sequence[tuple[int, int]]) -> CoSegmentation:
    """On reduced copies of these sizes."""
    if list(coseg.sizes_hw) == list(sizes_hw):
        return coseg
    regions = tuple(replace(region, mask=reduced(region.mask, sizes_hw[region.image])) for region in coseg.regions)
    return replace(coseg, sizes_hw=tuple(sizes_hw), regions=regions)


def data_of(config: LabelingConfig, addresses: Sequence[str], *, name: str = "") -> dict[str, Any]:
    """A task's data under the keys that a config reads its images from; name goes under `group`."""
    data: dict[str, Any] = {"group": name} if name else {}
    if config.layout == "A":
        data |= {item.source[1:]: address for item, address in zip(config.images, addresses, strict=False)}
    else:
        key = re.match(r"\$(\w+)", config.images[0].source)
        data[key[1] if key else "images"] = list(addresses)
    if task_images(config, data) != list(addresses):
        raise InputError(f"the config reads its images from {config.images[0].source!r}; use one of `calico project`")
    return data


def write_tasks(path: Path, tasks: Iterator[dict[str, Any]], on_task: Callable[[], None] = lambda: None) -> None:
    """A JSON list as the host imports it; the file appears whole or not at all."""
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, task in enumerate(tasks):
            file.write((",\n" if number else "\n") + json.dumps(task, ensure_ascii=False))
            on_task()
        file.write("\n]\n")
