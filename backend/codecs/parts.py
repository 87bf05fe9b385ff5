"""The labels that a task brings: the names of its own group (`parts` of its data), each with its colour.

Objects first, then parts: those that were predicted, then what the project knows of these objects, at most
`MAX_PARTS`; last `other part`, whose name is typed. `hint` says which are objects, which parts: it is shown on hover,
and by it a label is read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from backend.codecs.config_writer import PARTS
from backend.codecs.controls import PART_SUFFIX, Label, LabelingConfig, names_of_label
from backend.codecs.palette import OBJECT_COLOR, OTHER_COLOR, Palette
from calico.values import CoSegmentation

MAX_PARTS = 12
OTHER = "other part"


class Vocabulary:
    """What a project calls the parts of its objects, most frequent first; and the colour of each."""

    def __init__(self, palette: Palette | None = None) -> None:
        self.palette = palette or Palette()
        self._counts: dict[str, Counter[str]] = {}

    def learn(self, object_name: str, part_names: Iterable[str]) -> None:
        self._counts.setdefault(object_name, Counter()).update(part_names)

    def learn_from(self, parts: Any) -> None:
        """From `parts` of a task's data; anything else says nothing."""
        if not isinstance(parts, list):
            return
        self.palette.learn(parts)
        for item in parts:
            if isinstance(item, Mapping) and item.get("hint") == "part" and isinstance(item.get("of"), str):
                self.learn(item["of"], [str(item.get("value")).removesuffix(PART_SUFFIX)])

    def parts_of(self, object_name: str) -> list[str]:
        return [name for name, _ in self._counts.get(object_name, Counter()).most_common()]


def parts_of(coseg: CoSegmentation | None, config: LabelingConfig, known: Vocabulary) -> list[dict[str, str]]:
    """`parts` of the data of a task that shows this co-segmentation. coseg: None before there is one."""
    regions = () if coseg is None else coseg.regions
    objects = list(dict.fromkeys(region.object_name for region in sorted(regions, key=lambda r: r.image)))
    owners: dict[str, str] = {}
    for region in sorted(regions, key=lambda r: (r.occurrence != "common", r.name)):
        if region.part_name is not None:
            owners.setdefault(region.part_name, region.object_name)
    if config.names:
        return _of_vocabulary(objects, owners, config.names, known)
    for object_name in objects:
        for name in known.parts_of(object_name):
            if len(owners) < MAX_PARTS and name not in objects:
                owners.setdefault(name, object_name)
    labels = [_item(name, OBJECT_COLOR, "object") for name in objects or ["object"]]
    colors = known.palette.assign(owners)
    for name, owner in list(owners.items())[:MAX_PARTS]:
        value = name + PART_SUFFIX if name in objects else name
        labels.append(_item(value, colors[name], "part", owner))
    return [*labels, _item(OTHER, OTHER_COLOR, OTHER)]


def unknown_parts() -> list[dict[str, str]]:
    """Of a task whose group nobody has looked at yet."""
    return _with_keys([_item("object", OBJECT_COLOR, "object"), _item(OTHER, OTHER_COLOR, OTHER)])


def _of_vocabulary(
    objects: Sequence[str], owners: Mapping[str, str], names: Sequence[Label], known: Vocabulary
) -> list[dict[str, str]]:
    """The labels of a long fixed vocabulary that are about these objects; those that name no object, too."""
    labels = []
    for label in names:
        owner, part = names_of_label(label, names)
        if part is None:
            if owner is None or owner in objects:
                labels.append(_item(label.value, OBJECT_COLOR, "object"))
        elif owner in objects or (owner is None and part in owners):
            labels.append(_item(label.value, known.palette.assign([part])[part], "part", owner or owners[part]))
    return labels


def _item(value: str, color: str, hint: str, owner: str | None = None) -> dict[str, str]:
    return {"value": value, "background": color, "hint": hint} | ({"of": owner} if owner else {})


def _with_keys(labels: list[dict[str, str]]) -> list[dict[str, str]]:
    """Parts first with 1 to 9. Labels without a key of their own would get letters that are the editor's tools."""
    return labels


def brings_parts(config: LabelingConfig) -> bool:
    """Whether the tasks of this config bring the names of their group as its labels."""
    return config.vocabulary == "group" and all(controls.labels_keys == (f"${PARTS}",) for controls in config.images)


def with_parts(
    data: Mapping[str, Any], coseg: CoSegmentation | None, config: LabelingConfig, known: Vocabulary
) -> dict[str, Any]:
    """The task's data with the labels of its group. Names that it has already stay: regions may bear them."""
    before = data.get(PARTS)
    known.learn_from(before)
    labels = parts_of(coseg, config, known)
    values = {item["value"] for item in labels}
    kept = [
        item
        for item in (before if isinstance(before, list) else [])
        if isinstance(item, dict) and item.get("hint") in ("object", "part") and item.get("value") not in values
    ]
    if coseg is None or not coseg.regions:
        labels = [item for item in labels if not kept or item["value"] != "object"]
    elif kept:
        kept = [item for item in kept if item["value"] != "object"]
    end = len(labels) - (labels[-1]["value"] == OTHER)
    return {**data, PARTS: _with_keys([*labels[:end], *kept, *labels[end:]])}
