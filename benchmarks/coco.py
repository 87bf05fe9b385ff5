"""Our COCO export beside label-studio-sdk's own converter on the same annotations: masks, images, names, time.

Groups of drawings, whose part masks are known, go through the prediction codec into tasks with brush annotations; both
exporters read the same JSON export. A region's annotations are those that its exporter calls as it should (ours by
object and part, the converter by the brush's label) on its image and of whose pixels most are the region's: generous to
an exporter that writes several annotations for one region.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from backend.coco.export import CocoExporter, ExportOptions
from backend.coco.task_files import read_tasks
from backend.codecs.config import read_config, write_config
from backend.codecs.prediction import encode_prediction
from calico.coco.segmentation import decode_segmentation
from calico.coco.writer import CocoWriter
from calico.correspondence import truth_of
from calico.data.groups import draw_group
from calico.errors import InputError
from calico.masks import iou
from calico.values import CoSegmentation, PartRegion

#: Run with the sdk's Python: tasks, config and folder in, the converter's file and its seconds out.
CONVERT = """
import json, sys, time
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.converter import Format
tasks, config, out = sys.argv[1:]
started = time.perf_counter()
converter = Converter(config, project_dir=None, download_resources=False)
converter.convert(tasks, out, Format.BRUSH_TO_COCO, is_dir=False)
print(json.dumps({"seconds": time.perf_counter() - started}))
"""

CASES = ("one image annotated", "A", "B")


def compare(sdk_python: Path, num_groups: int) -> dict[str, Any]:
    """Per case: what each exporter wrote of `num_groups` groups of 2. Raises InputError where the sdk cannot run."""
    groups = [truth_of(draw_group(seed, group_size=2)) for seed in range(num_groups)]
    report: dict[str, Any] = {"groups": num_groups}
    for case in CASES:
        truths = groups
        if case == "one image annotated":  # what the converter is made for: its first image is the right one
            truths = [CoSegmentation(t.sizes_hw, tuple(r for r in t.regions if r.image == 0)) for t in groups]
        with TemporaryDirectory() as folder:
            report[case] = _compare(truths, "B" if case == "B" else "A", Path(folder), sdk_python)
    return report


def _compare(truths: list[CoSegmentation], layout: str, folder: Path, sdk_python: Path) -> dict[str, Any]:
    xml = write_config(2, layout=layout, naming="text")
    config = read_config(xml)
    tasks = []
    for number, truth in enumerate(truths, start=1):
        addresses = [f"/data/local-files/?d=drawings/{number}-{image}.png" for image in range(2)]
        data: dict[str, Any] = {"images": addresses}
        if layout == "A":
            data = {f"image{image}": address for image, address in enumerate(addresses, start=1)}
        prediction = encode_prediction(truth, config, model_version="m", task_id=number, task_data=data).prediction
        annotation = {"id": number, "was_cancelled": False, "result": prediction["result"]}
        tasks.append({"id": number, "data": data, "annotations": [annotation], "predictions": []})
    tasks_file, config_file = folder / "tasks.json", folder / "config.xml"
    tasks_file.write_text(json.dumps(tasks), encoding="utf-8")
    config_file.write_text(xml, encoding="utf-8")

    started = time.perf_counter()
    ours = folder / "ours.json"
    with CocoWriter(ours, scheme="object:part", run={}) as writer:
        CocoExporter(writer, config, ExportOptions()).run(lambda after, done: read_tasks(tasks_file))
    seconds = time.perf_counter() - started

    command = [str(sdk_python), "-c", CONVERT, str(tasks_file), str(config_file), str(folder / "sdk")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(f"{sdk_python} could not convert: {last}; it needs label-studio-sdk")
    theirs = folder / "sdk" / "result_coco.json"
    return {
        "regions": sum(len(truth.regions) for truth in truths),
        "ours": {**judge(json.loads(ours.read_text()), truths, by_name=True), "seconds": seconds},
        "sdk": {
            **judge(json.loads(theirs.read_text()), truths, by_name=False),
            "seconds": json.loads(done.stdout.splitlines()[-1])["seconds"],
        },
    }


def judge(document: Mapping[str, Any], truths: list[CoSegmentation], *, by_name: bool) -> dict[str, Any]:
    """Of all regions of the truths: how many an exporter's file has on their image, bit for bit, and their mean IoU.

    by_name: annotations are called by object and part; else by the brush's label.
    """
    names = {row["id"]: row["name"] for row in document["categories"]}
    rows_of: dict[Any, list[Mapping[str, Any]]] = {}
    for row in document["annotations"]:
        rows_of.setdefault(row["image_id"], []).append(row)
    images = {row["file_name"].rpartition("/")[2]: row for row in document["images"]}
    ious = []
    for number, truth in enumerate(truths, start=1):
        for region in truth.regions:
            best = np.zeros_like(region.mask)
            image = images.get(f"{number}-{region.image}.png")
            if image is not None and (image["height"], image["width"]) == region.mask.shape:
                for row in rows_of.get(image["id"], []):
                    if names[row["category_id"]] == _title(region, by_name):
                        mask = decode_segmentation(row["segmentation"], region.mask.shape).mask
                        if 2 * np.count_nonzero(mask & region.mask) > np.count_nonzero(mask):
                            best |= mask
            ious.append(iou(best, region.mask))
    return {
        "images": len(document["images"]),
        "annotations": len(document["annotations"]),
        "found": sum(value > 0 for value in ious),
        "exact": sum(value == 1.0 for value in ious),
        "mean_iou": float(np.mean(ious)),
        "names": sum(name not in ("object", "common part", "unique part") for name in names.values()),
    }


def _title(region: PartRegion, by_name: bool) -> str:
    if by_name:
        return region.object_name if region.part_name is None else f"{region.object_name}:{region.part_name}"
    return "object" if region.part_name is None else f"{region.occurrence.value} part"
