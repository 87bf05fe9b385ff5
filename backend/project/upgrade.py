"""An older project moved to labels that are its groups' own part names: its tasks, its config, its predictions.

Nothing is predicted again: stored predictions are read by the old config and written for the new one, mask by mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from backend.codecs.annotation import decode_annotation
from backend.codecs.config import LabelingConfig, read_config
from backend.codecs.config_writer import PARTS, write_config
from backend.codecs.parts import Vocabulary, brings_parts, with_parts
from backend.codecs.prediction import EncodedPrediction, encode_prediction
from backend.host.client import LabelStudioClient
from calico.errors import InputError
from calico.values import CoSegmentation


@dataclass
class Upgrade:
    """Counts. unreadable: predictions that the old config does not explain; they are left as they are."""

    tasks: int = 0
    predictions: int = 0
    unreadable: int = 0

    def text(self, *, dry_run: bool) -> str:
        would = "would be " if dry_run else ""
        lines = [f"{self.tasks} tasks {would}given labels, {self.predictions} predictions {would}written anew"]
        if self.unreadable:
            lines.append(f"{self.unreadable} predictions cannot be read and stay; `calico prelabel` makes new ones")
        return "\n".join(lines)

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def upgraded_config(config: LabelingConfig, *, arrows: bool = False) -> str:
    """The XML of the new layout for the same images. Raises InputError where there is none."""
    if config.layout == "C":
        raise InputError("the project shows its images by a <Repeater> (layout C); it stays as it is")
    geometry = config.images[0].geometry
    if config.vocabulary == "fixed":
        labels = [label.value for label in config.labels]
        xml = write_config(config.num_images, layout=config.layout, labels=labels, geometry=geometry, arrows=arrows)
    else:
        xml = write_config(config.num_images, layout=config.layout, geometry=geometry, arrows=arrows)
    for number, controls in enumerate(config.images, start=1):
        ours = f'value="$image{number}"' if config.layout == "A" else 'valueList="$images"'
        kind = ours.partition("=")[0]
        xml = xml.replace(ours, f'{kind}="{controls.source}"')
    return xml


def upgrade_project(
    client: LabelStudioClient,
    project: int,
    *,
    arrows: bool = False,
    dry_run: bool = False,
    on_task: Callable[[], None] = lambda: None,
) -> Upgrade:
    """Moves a project. Raises InputError, before anything is changed, where its annotations would not fit."""
    record = client.project(project)
    old = read_config(record["label_config"])
    if brings_parts(old):
        raise InputError(f"project {project}: its labels are its groups' own part names already")
    xml = upgraded_config(old, arrows=arrows)
    new = read_config(xml)
    if num := int(record.get("num_tasks_with_annotations") or 0):
        raise InputError(
            f"project {project}: {num} tasks have annotations, whose controls the new layout does not have; finish the "
            "project as it is, or make a new one for the rest of its tasks"
        )
    done, vocabulary = Upgrade(), Vocabulary()
    moved: dict[int, list[tuple[Mapping[str, Any], EncodedPrediction]]] = {}
    for task in client.tasks(project, full=True):
        done.tasks += 1
        data: dict[str, Any] = task["data"]
        read: list[tuple[Mapping[str, Any], CoSegmentation]] = []
        for prediction in task.get("predictions") or []:
            try:
                read.append((prediction, _read(prediction, old, data)))
            except InputError:
                done.unreadable += 1
        if brings_parts(new):
            data = with_parts(data, None, new, vocabulary)
            for _, coseg in read:
                data = with_parts(data, coseg, new, vocabulary)
        if not dry_run and data.get(PARTS) != task["data"].get(PARTS):
            client.update_task(task["id"], data)
        for prediction, coseg in read:
            version = str(prediction.get("model_version") or "")
            encoded = encode_prediction(coseg, new, model_version=version, task_id=task["id"], task_data=data)
            moved.setdefault(task["id"], []).append((prediction, encoded))
            done.predictions += 1
        on_task()
    if dry_run:
        return done
    client.update_project(project, label_config=xml)
    for number, predictions in moved.items():
        for prediction, encoded in predictions:
            rows, version = encoded.prediction["result"], encoded.prediction["model_version"]
            client.create_prediction(number, rows, model_version=version, score=prediction.get("score"))
            client.delete_prediction(prediction["id"])
    return done


def _read(prediction: Mapping[str, Any], config: LabelingConfig, data: Mapping[str, Any]) -> CoSegmentation:
    """A stored prediction with its scores. Raises InputError where it says nothing that can be read."""
    decoded = decode_annotation(prediction, config, task_data=data)
    score_of = {row.get("id"): row["score"] for row in prediction["result"] if isinstance(row.get("score"), float)}
    coseg = decoded.cosegmentation
    regions = []
    for region in coseg.regions:
        scores = [score_of[row] for row in decoded.row_ids.get(region.key, ()) if row in score_of]
        regions.append(replace(region, score=max(scores)) if scores else region)
    if not regions:
        raise InputError("it shows no region")
    return replace(coseg, regions=tuple(regions))
