"""The labels that a task brings: the names of its own group (`parts` of its data), each with its colour.

Objects first, then parts: those that were predicted, then what the project knows of these objects, at most
`MAX_PARTS`; last `other part`, whose name is typed. `hint` says which are objects, which parts: it is shown on hover,
and by it a label is read again. `html` shows beside a part's name whether it is common or unique in the group, as the
names of its regions say; `hotkey` is the same on every image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import chain, islice
from typing import Any

from backend.codecs.config_writer import PARTS
from backend.codecs.controls import MAX_LABELS, PART_SUFFIX, Label, LabelingConfig, at_most_labels, names_of_label
from backend.codecs.palette import MAX_NAME, MAX_NAMES, OBJECT_COLOR, OTHER_COLOR, Palette
from calico.values import CoSegmentation, normalize_name

MAX_PARTS = 12
OTHER = "other part"
#: Digits, then letters that are no tool of the editor: it would choose among those too, for labels without a key.
KEYS, OTHER_KEY = "123456789qtasdfgzxcyijln", "0"
COMMON_MARK, UNIQUE_MARK = "\u25cf", "\u25cb"  # a filled and an empty disk, as on our pictures


class Vocabulary:
    """What a project calls the parts of its objects, most frequent first; and the colour of each. Whoever writes tasks
    says what is learnt, so names over `MAX_NAME` characters are not, nor new ones beyond `MAX_NAMES`."""

    def __init__(self, palette: Palette | None = None) -> None:
        self.palette = palette or Palette()
        self._counts: dict[str, Counter[str]] = {}
        self._num_names = 0

    def learn(self, object_name: str, part_names: Iterable[str]) -> None:
        for name in part_names:
            counts = self._counts.get(object_name, Counter())
            if name not in counts:
                if self._num_names >= MAX_NAMES or max(len(name), len(object_name)) > MAX_NAME:
                    continue
                self._num_names += 1
            counts[name] += 1
            self._counts[object_name] = counts

    def learn_from(self, parts: Any) -> None:
        """From `parts` of a task's data; anything else says nothing."""
        labels = list(islice(_labels_of(parts), MAX_LABELS))
        self.palette.learn(labels)
        for item in labels:
            if item["hint"] == "part" and isinstance(item.get("of"), str):
                self.learn(item["of"], [item["value"].removesuffix(PART_SUFFIX)])

    def parts_of(self, object_name: str) -> list[str]:
        return [name for name, _ in self._counts.get(object_name, Counter()).most_common()]


def _labels_of(parts: Any) -> Iterator[dict[str, Any]]:
    """What in `parts` of a task's data is an object's or a part's label, as `_item` makes them."""
    for item in parts if isinstance(parts, list) else ():
        if isinstance(item, dict) and isinstance(item.get("value"), str) and item.get("hint") in ("object", "part"):
            yield item


def parts_of(coseg: CoSegmentation | None, config: LabelingConfig, vocabulary: Vocabulary) -> list[dict[str, str]]:
    """`parts` of the data of a task that shows this co-segmentation. coseg: None before there is one."""
    regions = () if coseg is None else coseg.regions
    objects = list(dict.fromkeys(region.object_name for region in sorted(regions, key=lambda r: r.image)))
    owners: dict[str, str] = {}
    for region in sorted(regions, key=lambda r: (r.occurrence != "common", r.name)):
        if region.part_name is not None:
            owners.setdefault(region.part_name, region.object_name)
    if config.names:
        return _of_vocabulary(objects, owners, config.names, vocabulary)
    for object_name in objects:
        for name in vocabulary.parts_of(object_name):
            if len(owners) < MAX_PARTS and name not in objects:
                owners.setdefault(name, object_name)
    labels = [_item(name, OBJECT_COLOR, "object") for name in objects or ["object"]]
    colors = vocabulary.palette.assign(owners)
    for name, owner in list(owners.items())[:MAX_PARTS]:
        value = name + PART_SUFFIX if name in objects else name
        labels.append(_item(value, colors[name], "part", owner))
    return [*labels, _item(OTHER, OTHER_COLOR, OTHER)]


def unknown_parts() -> list[dict[str, str]]:
    """Of a task whose group nobody has looked at yet."""
    return _with_keys([_item("object", OBJECT_COLOR, "object"), _item(OTHER, OTHER_COLOR, OTHER)])


def _of_vocabulary(
    objects: Sequence[str], owners: Mapping[str, str], names: Sequence[Label], vocabulary: Vocabulary
) -> list[dict[str, str]]:
    """The labels of a long fixed vocabulary that are about these objects; those that name no object, too."""
    labels = []
    for label in names:
        owner, part = names_of_label(label, names)
        if part is None:
            if owner is None or owner in objects:
                labels.append(_item(label.value, OBJECT_COLOR, "object"))
        elif owner in objects or (owner is None and part in owners):
            labels.append(_item(label.value, vocabulary.palette.assign([part])[part], "part", owner or owners[part]))
    return labels


def _item(value: str, color: str, hint: str, owner: str | None = None) -> dict[str, str]:
    return {"value": value, "background": color, "hint": hint} | ({"of": owner} if owner else {})


def _with_keys(labels: list[dict[str, str]]) -> list[dict[str, str]]:
    """Keys for parts, then for objects; what is beyond `KEYS` is left to the editor."""
    ordered = chain(*([item for item in labels if item["hint"] == kind] for kind in ("part", "object")))
    keys = {item["value"]: key for item, key in zip(ordered, KEYS, strict=False)} | {OTHER: OTHER_KEY}
    return [item | ({"hotkey": keys[item["value"]]} if item["value"] in keys else {}) for item in labels]


def _with_mark(item: dict[str, str], shown_on: Mapping[str, set[int]]) -> dict[str, str]:
    """The label with the mark of what its regions are now; without one where no image shows it."""
    plain = {key: value for key, value in item.items() if key not in ("html", "hotkey")}
    name = item["value"].removesuffix(PART_SUFFIX)
    images = shown_on.get(name) or shown_on.get(normalize_name(name.rpartition(":")[2]))
    if item["hint"] != "part" or not images:
        return plain
    occurrence, mark = ("common", COMMON_MARK) if len(images) > 1 else ("unique", UNIQUE_MARK)
    return plain | {"html": f'{escape(item["value"])} <small title="{occurrence}">{mark}</small>'}


def brings_parts(config: LabelingConfig) -> bool:
    """Whether the tasks of this config bring the names of their group as its labels."""
    return config.vocabulary == "group" and all(controls.labels_keys == (f"${PARTS}",) for controls in config.images)


def with_parts(
    data: Mapping[str, Any], coseg: CoSegmentation | None, config: LabelingConfig, vocabulary: Vocabulary
) -> dict[str, Any]:
    """The task's data with the labels of its group. Names that it has already stay: regions may bear them. Raises
    InputError where it has more than `MAX_LABELS`."""
    before = at_most_labels(_labels_of(data.get(PARTS)))
    vocabulary.learn_from(list(before))
    labels = parts_of(coseg, config, vocabulary)
    values = {item["value"] for item in labels}
    old_labels = [item for item in before if item["value"] not in values]
    if coseg is None or not coseg.regions:
        labels = [item for item in labels if not old_labels or item["value"] != "object"]
    elif old_labels:
        old_labels = [item for item in old_labels if item["value"] != "object"]
    end = len(labels) - (labels[-1]["value"] == OTHER)
    shown_on: dict[str, set[int]] = {}
    for region in () if coseg is None else coseg.regions:
        if region.part_name is not None:
            shown_on.setdefault(region.part_name, set()).add(region.image)
    marked = [_with_mark(item, shown_on) for item in (*labels[:end], *old_labels, *labels[end:])]
    return {**data, PARTS: _with_keys(marked)}
