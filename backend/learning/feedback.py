"""Annotations -> annotated groups of a snapshot, each with where it comes from and what was done to its prediction.

One annotation of a task counts (`backend/codecs/annotations_of_task.py`). A region that cannot be read or named is left
out where the rest stays true without it (`sub_tasks_without`): its image then counts as partly annotated and teaches
nothing about what is absent. Else the group is left out. Either is counted and explained by task.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

from backend.codecs.annotation import (
    OVERLAP,
    Change,
    DecodedAnnotation,
    LeftOut,
    compare_with_prediction,
    decode_annotation,
)
from backend.codecs.annotations_of_task import annotation_that_counts
from backend.codecs.config import LabelingConfig, read_config, task_images
from backend.codecs.rows import read_rows
from backend.host.client import HostError
from backend.learning.feedback_sources import AnnotatedTask
from backend.media.fetching import public_url
from backend.prediction.predictor import describe
from backend.project.prelabel import is_held_out
from calico.errors import InputError
from calico.masks import boundary_f, encode_rle, iou
from calico.snapshots.records import AnnotatedGroup, ImageReference
from calico.snapshots.writer import SnapshotWriter
from calico.values import CoSegmentation, ImageGroup, Occurrence, PartRegion, Problem, RegionKey, SubTask, whole_number

log = logging.getLogger(__name__)

#: Problems of decoding after which what is left is not the truth about the group.
FATAL = ("unknown_image", "malformed_row", "no_object_name")
CHECKPOINT_EVERY = 50
_EXPECTED = ("cancelled", "empty", "superseded", "not_annotated", "purged")

Json = Mapping[str, Any]
ImageLoader = Callable[[str, int | None], np.ndarray]


class Skip(Exception):
    """A task or annotation that gives no group."""

    def __init__(self, code: str, message: str, annotation: Any = None) -> None:
        super().__init__(message)
        self.code, self.message, self.annotation = code, message, annotation


@dataclass(frozen=True)
class Collector:
    """Tasks -> a snapshot's writer. load_image: (address, task) -> HxWx3 uint8 RGB; None leaves pictures out.

    holdout: the share of groups that `calico prelabel --holdout` left without a prediction; 0: none were held out.
    """

    writer: SnapshotWriter
    load_image: ImageLoader | None
    holdout: float = 0.0

    def run(self, tasks: Iterable[AnnotatedTask], on_progress: Callable[[int], None] = lambda num_tasks: None) -> int:
        """Goes through the tasks and returns how many there were, those of earlier runs included."""
        position = self.writer.position or {"num_tasks": 0, "task": 0}
        num_tasks = int(position["num_tasks"])
        for item in tasks:
            num_tasks += 1
            self._add(item)
            if num_tasks % CHECKPOINT_EVERY == 0:
                self.writer.checkpoint({"num_tasks": num_tasks, "task": item.task.get("id")})
            on_progress(num_tasks)
        return num_tasks

    def _add(self, item: AnnotatedTask) -> None:
        task = item.task.get("id")
        try:
            if not isinstance(task, int):
                raise Skip("no_id", f"a task with id {task!r}; export it from the host")
            annotations = self._not_purged(item.task)
            annotation, others = annotation_that_counts(annotations)
            if annotation is None:
                raise Skip(*others[0]) if others else Skip("not_annotated", "the task has no annotation")
            for other in others:
                self._skip(task, Skip(*other))
            group, images, problems = self._group_of(item, annotation, order=min(a["id"] for a in annotations))
        except Skip as skip:
            self._skip(task, skip)
            return
        except Exception as error:  # whatever it is, one task's rows must not end the run of all others
            self._skip(task, Skip("unreadable", describe(error)))
            return
        for problem in problems:
            log.info("task %s: %s", task, problem.message)
        self.writer.add(group, images, problems=[problem.code for problem in problems])

    def _not_purged(self, task: Json) -> list[Json]:
        valid, rows = [], task.get("annotations") or ()
        if not isinstance(rows, (list, tuple)):
            raise Skip("unreadable", f"annotations: expected a list, got {type(rows).__name__}; export it again")
        for annotation in rows:
            if not isinstance(annotation, Mapping) or not isinstance(annotation.get("id"), int):
                message = "an annotation that is no object with an id; export it again"
                self._skip(task.get("id"), Skip("unreadable", message))
            elif self.writer.is_purged(task=task.get("id"), annotator=annotator_hash(annotation.get("completed_by"))):
                self._skip(
                    task.get("id"), Skip("purged", "taken out on request, and left out since", annotation.get("id"))
                )
            else:
                valid.append(annotation)
        return valid

    def _skip(self, task: Any, skip: Skip) -> None:
        if skip.code not in _EXPECTED:
            log.warning("task %s left out: %s", task, skip.message)
        self.writer.skip(task, skip.code, skip.message, annotation=skip.annotation)

    def _group_of(
        self, item: AnnotatedTask, annotation: Json, *, order: int
    ) -> tuple[AnnotatedGroup, list[np.ndarray], tuple[Problem, ...]]:
        task, number = item.task, annotation.get("id")
        try:
            config = _config(item.label_config)
            addresses = task_images(config, task.get("data") or {})
        except InputError as error:
            raise Skip("other_config", f"{error} (is this the project's config?)", number) from None
        prediction = find_prediction(task, annotation)
        images, sizes = self._images(addresses, task, annotation, prediction, config)
        decoded = decode_annotation(annotation, config, sizes, task_data=task.get("data"))
        fatal = [problem for problem in decoded.problems if problem.code in FATAL]
        if fatal:
            more = f" (and {len(fatal) - 1} more)" if len(fatal) > 1 else ""
            raise Skip(fatal[0].code, fatal[0].message + more, number)
        target = decoded.cosegmentation
        sub_tasks = sub_tasks_without(decoded.left_out, target)
        if not sub_tasks:
            unreadable = [problem for problem in decoded.problems if problem.code == "unreadable_region"]
            more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
            raise Skip("unreadable_region", unreadable[0].message + more, number)
        if not target.regions:
            raise Skip("empty", "the annotation has no regions", number)
        provenance, changes = self._provenance(item, annotation, prediction, decoded, config, sizes)
        if decoded.left_out:
            images_left = sorted({region.image for region in decoded.left_out})
            provenance["partial"] = {"images": images_left, "sub_tasks": [task.value for task in sub_tasks]}
        provenance["held_out"] = is_held_out(addresses, self.holdout) if self.holdout else None
        group = AnnotatedGroup(
            id=f"{task.get('project', 0)}/{task['id']}",
            images=_references(addresses, sizes, images),
            target=target,
            provenance=provenance,
            changes=changes,
            order=order,
        )
        return group, images, decoded.problems + tuple(_overlaps(target))

    def _images(
        self, addresses: Sequence[str], task: Json, annotation: Json, prediction: Json | None, config: LabelingConfig
    ) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        """The pictures and their (height, width); without a loader none, and the sizes that the rows tell."""
        if self.load_image is not None:
            images = []
            for i, address in enumerate(addresses):
                try:
                    images.append(self.load_image(address, task.get("id")))
                except (InputError, HostError) as error:
                    raise Skip("image_gone", f"image {i + 1}: {error}", annotation.get("id")) from None
            return images, list(ImageGroup(tuple(images)).sizes_hw)
        sizes: dict[int, tuple[int, int]] = {}
        for rows in (annotation["result"], (prediction or {}).get("result") or []):
            for region in read_rows(rows, config).regions.values():
                image = config.image_of(region.to_name, region.item_index)
                if image is not None and region.size_hw is not None:
                    sizes.setdefault(image, region.size_hw)
        unknown = [i + 1 for i in range(len(addresses)) if i not in sizes]
        if unknown:
            message = f"image {unknown[0]} has no region that tells its size; run it with images"
            raise Skip("unknown_size", message, annotation.get("id"))
        return [], [sizes[i] for i in range(len(addresses))]

    def _provenance(
        self,
        item: AnnotatedTask,
        annotation: Json,
        prediction: Json | None,
        decoded: DecodedAnnotation,
        config: LabelingConfig,
        sizes: Sequence[tuple[int, int]],
    ) -> tuple[dict[str, Any], tuple[dict[str, Any], ...] | None]:
        task, parent = item.task, annotation.get("parent_prediction")
        provenance: dict[str, Any] = {
            "project": task.get("project"),
            "task": task["id"],
            "annotation": annotation.get("id"),
            "annotator": annotator_hash(annotation.get("completed_by")),
            "created_at": annotation.get("created_at"),
            "updated_at": annotation.get("updated_at"),
            "lead_time_s": annotation.get("lead_time"),
            "ground_truth": bool(annotation.get("ground_truth")),
            "prediction": parent if prediction is None else prediction.get("id"),
            "model_version": None if prediction is None else prediction.get("model_version"),
            "has_predictions": bool(task.get("predictions")),
            "accepted_as_is": False,
        }
        if prediction is None:
            # The host forgets `parent_prediction` with the prediction: what the editor noted is all there is.
            origins = {row.get("origin") for row in annotation["result"] if isinstance(row, Mapping) and "value" in row}
            provenance["accepted_as_is"] = origins == {"prediction"}
            return provenance, None
        rows = prediction["result"]
        before = decode_annotation(rows, config, sizes, task_data=task.get("data"))
        is_kept = all(c.change is Change.KEPT for c in compare_with_prediction(rows, annotation["result"], config))
        provenance["accepted_as_is"] = is_kept and _relations(before) == _relations(decoded)
        return provenance, region_changes(before, decoded)


def find_prediction(task: Json, annotation: Json) -> Json | None:
    """The prediction that an annotation started from, if it is still known with its rows."""
    parent = annotation.get("parent_prediction")
    if isinstance(parent, Mapping):
        parent = parent.get("id")
    if parent is None:
        return None
    candidates = [*(task.get("predictions") or ()), annotation.get("prediction")]
    for candidate in candidates:
        if (
            isinstance(candidate, Mapping)
            and candidate.get("id") == parent
            and isinstance(candidate.get("result"), list)
        ):
            return candidate
    return None


def annotator_hash(completed_by: Any) -> str:
    """A pseudonym: the same for the same person, and not their name or address.

    completed_by: as an annotation says it, or as a user types it: an id, an e-mail address, or an object with either.
    """
    identity = completed_by
    if isinstance(identity, Mapping):
        identity = next(
            (identity[key] for key in ("id", "email", "username") if identity.get(key) not in (None, "")), None
        )
    number = whole_number(identity)
    if number is None and isinstance(identity, str):
        number = identity.strip().lower()  # type: ignore[assignment]
    return hashlib.sha256(f"annotator {number}".encode()).hexdigest()[:16]


def sub_tasks_without(left_out: Sequence[LeftOut], target: CoSegmentation) -> tuple[SubTask, ...]:
    """Which questions about a group still have a whole and right answer without some of its regions; none where what
    is left is not true any more.

    The objects are whole without a part. The common parts are, where each part that is missing is unique: by a name
    that no other image shows, or by its label. A missing part whose name others show would make theirs unique.
    """
    if not left_out:
        return tuple(SubTask)
    parts = [region for region in target.regions if region.kind == "part"]
    are_unique = True
    for missing in left_out:
        if missing.is_object or (missing.is_object is None and missing.name is None):
            return ()
        if missing.name is not None:
            if any(part.name == missing.name and part.image != missing.image for part in parts):
                return ()
            others = [other for other in left_out if other is not missing]
            are_unique &= all(other.name != missing.name or other.image == missing.image for other in others)
        elif missing.says != "unique":
            if any(part.occurrence is Occurrence.UNIQUE and part.image != missing.image for part in parts):
                return ()
            are_unique = False
    return (SubTask.COMMON_OBJECT, SubTask.COMMON_PARTS) if are_unique else (SubTask.COMMON_OBJECT,)


def region_changes(before: DecodedAnnotation, after: DecodedAnnotation) -> tuple[dict[str, Any], ...]:
    """What became of each predicted region, then those that were added, as `calico.snapshots.report` reads them.

    A region's successor is the one that holds most of its row ids. iou, boundary_f: None where there is no successor.
    mask: as it was predicted, where nothing of the target shows it any more; COCO run lengths.
    """
    successor_of_row = {row: key for key, rows in after.row_ids.items() for row in rows}
    predicted, final = before.cosegmentation.by_key, after.cosegmentation.by_key
    changes = []
    succeeded: set[RegionKey] = set()
    unread = {region.id for region in after.left_out}
    for key, region in predicted.items():
        if unread & set(before.row_ids[key]):
            continue  # there still, but nobody knows how
        successors = [successor_of_row[row] for row in before.row_ids[key] if row in successor_of_row]
        if not successors:
            changes.append(_change(region, Change.DELETED) | {"mask": encode_rle(region.mask)})
            continue
        successor = final[max(successors, key=successors.count)]
        succeeded.add(successor.key)
        overlap = iou(region.mask, successor.mask) if region.image == successor.image else 0.0
        is_name_right = (region.object_name, region.part_name) == (successor.object_name, successor.part_name)
        change = Change.EDITED if overlap < 1 else Change.KEPT if is_name_right else Change.RELABELLED
        edge = 1.0 if overlap == 1 else boundary_f(region.mask, successor.mask) if overlap else 0.0
        changes.append(
            _change(region, change)
            | {
                "iou": round(overlap, 6),
                "boundary_f": round(edge, 6),
                "is_name_right": is_name_right,
                "is_occurrence_right": region.occurrence is successor.occurrence,
                "mask": None if change is Change.KEPT else encode_rle(region.mask),
            }
        )
    changes += [_change(region, Change.ADDED) for key, region in final.items() if key not in succeeded]
    return tuple(changes)


def _change(region: PartRegion, change: Change) -> dict[str, Any]:
    return {
        "image": region.image,
        "object": region.object_name,
        "part": region.part_name,
        "change": change.value,
        "iou": None,
        "boundary_f": None,
        "is_name_right": None,
        "is_occurrence_right": None,
        "mask": None,
    }


def _relations(decoded: DecodedAnnotation) -> dict[RegionKey, tuple[int, ...]]:
    return {region.key: region.correspondence for region in decoded.cosegmentation.regions}


def _overlaps(target: CoSegmentation) -> Iterable[Problem]:
    parts = [region for region in target.regions if region.kind == "part"]
    for a, b in combinations(parts, 2):
        if a.image == b.image and (overlap := iou(a.mask, b.mask)) >= OVERLAP:
            message = f"image {a.image + 1}: {a.name!r} and {b.name!r} cover each other (IoU {overlap:.2f})"
            yield Problem("overlapping_regions", f"{message}; is one of them too many?", a.image)


def _references(
    addresses: Sequence[str], sizes: Sequence[tuple[int, int]], images: Sequence[np.ndarray]
) -> tuple[ImageReference, ...]:
    digests = ImageGroup(tuple(images)).digests if images else (None,) * len(addresses)
    return tuple(
        ImageReference(_shown(address), size, digest, hashlib.sha256(address.encode()).hexdigest())
        for address, size, digest in zip(addresses, sizes, digests, strict=True)
    )


def _shown(address: str) -> str:
    """An address to keep: no credentials, no picture within a data URI."""
    if address.startswith("data:"):
        return address.partition(",")[0][:80]
    return public_url(address) if "://" in address else address


@lru_cache(maxsize=16)
def _config(label_config: str) -> LabelingConfig:
    return read_config(label_config)
