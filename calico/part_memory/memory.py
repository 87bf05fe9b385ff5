"""What is kept of a team's parts: the heads, the taught names, and a card; and what they show on an image.

memory.safetensors and memory.json in a version's folder, beside the weights whose features it was fitted on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from calico.checkpoints.files import made_for, read_safetensors, write_safetensors
from calico.checkpoints.fingerprint import MEMORY, MEMORY_CARD, read_card, weights_print
from calico.errors import CheckpointError
from calico.files import write_text
from calico.mean_field import mean_field
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.part_memory.affinity import AffinityHead
from calico.part_memory.context import MAPS_PER_NAME, beside, coarse, context_of
from calico.part_memory.head import PartHead
from calico.part_memory.lessons import TaughtName
from calico.part_memory.presence import Presence
from calico.part_memory.pyramid import PyramidFeatures, PyramidReader
from calico.values import normalize_name

logger = logging.getLogger(__name__)
FORMAT_VERSION = 1
MAX_BYTES = 1_600_000
LEAST_CHANCE = 1e-4  # that is told from none, where pixels hear their neighbours
COARSER = 2  # times the finest grid, on which heads are asked


@dataclass(frozen=True)
class NameEstimate:
    """Of one name, on images that the head which was asked had not seen.

    num_images: that show it. iou: mean over these, 0 where it was not found. precision: of the images on which it was
    found, those that show it; None where it was found on none. cutoff: confidence below which it does not count as
    found. factor, offset: confidence times the one and the other added estimates the IoU.
    """

    num_images: int = 0
    iou: float | None = None
    precision: float | None = None
    cutoff: float = 0.5
    factor: float = 1.0
    offset: float = 0.0


@dataclass(frozen=True)
class Belief:
    """How a checkpoint's own memory makes chances of what it sees (`calico.part_memory.base`).

    sharpness: power of an object's mass. unknown: the mass of objects that it does not know. alike: in what share of
    cases, beyond chance, two images of a group show one object. language_trust: factor on the language model's scores
    where an image is no drawing.
    """

    sharpness: float = 1.0
    unknown: float = 0.0
    alike: float = 0.0
    language_trust: float = 1.0


@dataclass(frozen=True)
class MemoryCard:
    """size: at which images are looked at, in pixels. areas: of each name, the least share of an image that counts as
    found. strict_miou_parts: cross-validated over `num_measured` images, None for too few groups to measure.
    has_context: whether the heads also read the mean of the coarsest map. around: codes whose chances a second round of
    heads reads around each pixel (`calico.part_memory.context`); none where there were too few groups for one.
    least_presence: chance below which an image as a whole does not show an object (`calico.part_memory.presence`); None
    where that is not asked. is_base: of a checkpoint's own many classes, not of a team's (`calico.part_memory.base`),
    with its belief."""

    names: tuple[TaughtName, ...]
    size: int
    num_groups: int
    num_images: int
    areas: tuple[float, ...]
    estimates: tuple[NameEstimate, ...]
    strict_miou_parts: float | None = None
    num_measured: int = 0
    seconds: float = 0.0
    has_context: bool = False
    around: tuple[int, ...] = ()
    least_presence: float | None = None
    is_base: bool = False
    belief: Belief = Belief()
    format_version: int = FORMAT_VERSION

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.part for name in self.names if name.part is not None))

    @property
    def object_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.object for name in self.names))

    @classmethod
    def from_file(cls, path: Path) -> MemoryCard:
        """Raises `CheckpointError`."""
        raw = read_card(path, "names", "size", "areas", "estimates", "format_version")
        if raw["format_version"] != FORMAT_VERSION:
            raise CheckpointError(f"{path}: format {raw['format_version']}, expected {FORMAT_VERSION}; finetune again")
        try:
            raw["names"] = tuple(TaughtName(str(name), part) for name, part in raw["names"])
            raw["areas"] = tuple(map(float, raw["areas"]))
            raw["estimates"] = tuple(NameEstimate(**row) for row in raw["estimates"])
            raw["around"] = tuple(map(int, raw.get("around", ())))
            least = raw.get("least_presence")
            raw["least_presence"] = None if least is None else float(least)
            raw["belief"] = Belief(**raw.get("belief", {}))
            card = cls(**raw)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a memory's card ({error}); copy the version again") from None
        if not len(card.names) == len(card.areas) == len(card.estimates):
            raise CheckpointError(f"{path}: {len(card.names)} names with other numbers of areas; copy it again")
        if wrong := [code for code in card.around if not 0 <= code <= len(card.names)]:
            raise CheckpointError(f"{path}: around has code {wrong[0]} of {len(card.names)} names; copy it again")
        return card


class SeenRegion(NamedTuple):
    """mask: HxW bool at the image's own size. score: the estimate of its IoU, 0 to 1."""

    mask: np.ndarray
    score: float


class Sight(NamedTuple):
    """What the memory sees on one image: a taught object, its parts, and which of its taught parts it does not see."""

    object_name: str
    object: SeenRegion
    parts: Mapping[str, SeenRegion]
    unseen: frozenset[str]
    certainty: float = 1.0  # that the object is called right

    @property
    def regions(self) -> dict[str | None, SeenRegion]:
        """The object under None, then the parts."""
        regions: dict[str | None, SeenRegion] = {None: self.object}
        regions.update(self.parts)
        return regions

    def among(self, names: Collection[str]) -> Sight | None:
        """With the names of a fixed vocabulary only; None where its object is not one of them."""
        vocabulary = {normalize_name(name) for name in names}
        if self.object_name not in vocabulary:
            return None
        return self._replace(
            parts={name: region for name, region in self.parts.items() if name in vocabulary},
            unseen=self.unseen & vocabulary,
        )


class PartMemory:
    """Heads of one fit, which answer together. second: a second round, which reads what the first sees around.
    presence: of the card's objects, asked before the heads where the whole image was read."""

    def __init__(
        self,
        heads: Sequence[PartHead],
        card: MemoryCard,
        second: Sequence[PartHead] = (),
        presence: Presence | None = None,
    ) -> None:
        self.heads, self.second, self.presence, self.card = list(heads), list(second), presence, card
        self._place = {name: k + 1 for k, name in enumerate(card.names)}
        self.codes: dict[str, list[int]] = {}  # of each object and its parts
        for name, code in self._place.items():
            self.codes.setdefault(name.object, []).append(code)

    def tensors(self) -> dict[str, Tensor]:
        """All weights, by the names that they have in a file."""
        rounds = {"heads": self.heads, "second": self.second}
        own = {} if self.presence is None else self.presence.state_dict()
        return {f"presence.{name}": value for name, value in own.items()} | {
            f"{which}.{k}.{name}": value
            for which, heads in rounds.items()
            for k, head in enumerate(heads)
            for name, value in head.state_dict().items()
        }

    @torch.inference_mode()
    def probabilities(self, features: PyramidFeatures) -> Tensor:
        """(K + 1) x h x w, cut to the image, on a grid `COARSER` than the finest map; they add up to 1 everywhere."""
        asked = features.coarser(COARSER)
        if not self.second:
            return together(self.heads, asked)
        around = together(self.heads, coarse(features))[list(self.card.around)]
        return together(self.second, beside(asked, context_of(around)))

    def sight(self, features: PyramidFeatures, size_hw: tuple[int, int]) -> Sight | None:
        """None where no taught object is seen. size_hw: of the image."""
        shown = self._shown(features)
        if not shown:
            return None
        chances = self.probabilities(features)
        best = chances.argmax(0)
        area = torch.bincount(best.flatten(), minlength=len(chances)).float() / best.numel()
        object_name = max(shown, key=lambda name: float(area[self.codes[name]].sum()))
        codes = self.codes[object_name]
        own = chances[[0, *codes]]  # what other taught objects are thought of here is left aside: an image has one
        colours = features.within(features.maps[0]).float()
        own = F.interpolate(own[None], size=colours.shape[1:], mode="bilinear", align_corners=False)[0]
        return self._sight(object_name, mean_field((own + LEAST_CHANCE).log(), colours), size_hw)

    def _shown(self, features: PyramidFeatures) -> list[str]:
        """The objects that the image as a whole may show."""
        if self.presence is None or features.whole is None or self.card.least_presence is None:
            return list(self.codes)
        chances = self.presence.chances(features.whole).tolist()
        return [name for name, own in zip(self.codes, chances, strict=True) if own >= self.card.least_presence]

    def _sight(self, shown: str, own: Tensor, size_hw: tuple[int, int], certainty: float = 1.0) -> Sight | None:
        """own: (1 + C) x h x w, chances of nothing and of the object's codes. certainty: that it is called so."""
        codes = self.codes[shown]
        best = own.argmax(0)
        whole = self._region(own[1:].sum(0) - own[0], own[1:].sum(0), best > 0, self._place[TaughtName(shown, None)])
        if whole is None:
            return None
        margin, score = whole
        item = SeenRegion(_enlarged(margin, size_hw), score * certainty)
        if not item.mask.any():
            return None
        parts, unseen = {}, set()
        for k, code in enumerate(codes, start=1):
            part = self.card.names[code - 1].part
            if part is None:
                continue
            others = torch.cat([own[:k], own[k + 1 :]]).amax(0)
            region = self._region(own[k] - others, own[k], best == k, code)
            mask = None if region is None else _enlarged(region[0], size_hw)
            if region is None or mask is None or not mask.any():
                unseen.add(part)
            else:
                parts[part] = SeenRegion(mask, region[1] * certainty)
        return Sight(shown, item, parts, frozenset(unseen), certainty)

    def _region(self, margin: Tensor, chance: Tensor, where: Tensor, code: int) -> tuple[Tensor, float] | None:
        """margin: h x w, above 0 where the name wins; None where that is too little or too doubtful."""
        share = float(where.float().mean())
        if share <= 0 or share < self.card.areas[code - 1]:
            return None
        estimate = self.card.estimates[code - 1]
        confidence = float(chance[where].mean())
        if confidence < estimate.cutoff:
            return None
        return margin, min(1.0, max(0.0, confidence * estimate.factor + estimate.offset))


def _enlarged(margin: Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """HxW bool: where the margin, brought to the image's own size, is above 0."""
    full_size = F.interpolate(margin[None, None].float(), size=size_hw, mode="bilinear", align_corners=False)[0, 0]
    mask: np.ndarray = (full_size > 0).numpy()
    return mask


def together(heads: Sequence[PartHead], features: PyramidFeatures) -> Tensor:
    """(K + 1) x h x w, the mean of their chances."""
    return torch.stack([head.over(features).softmax(0) for head in heads]).mean(0)


def reader_of(memory: PartMemory, model: CalicoModel, config: CalicoConfig, has_whole: bool = True) -> PyramidReader:
    """Reads images as the memory asks for them, by the model that it was fitted on. has_whole: where it asks for it."""
    card = memory.card
    has_whole = has_whole and card.least_presence is not None
    return PyramidReader(model, config, card.size, card.has_context, has_whole)


# -- files ------------------------------------------------------------------------------------------------------------


def save_memory(folder: Path, memory: PartMemory) -> None:
    """Beside the weights that it was fitted on, whose fingerprint it carries, and that of its card: what is shown
    depends on both, so a checkpoint's version does. fp16.

    Raises `CheckpointError` where a weight does not fit into it or the file grew beyond `MAX_BYTES`.
    """
    tensors = {name: value.half().contiguous() for name, value in memory.tensors().items()}
    if wrong := [name for name, value in tensors.items() if not value.isfinite().all()]:
        raise CheckpointError(f"{folder / MEMORY}: {wrong[0]} is not finite in fp16")
    if (size := sum(value.nbytes for value in tensors.values())) > MAX_BYTES:
        raise CheckpointError(f"{folder / MEMORY}: {size} bytes, expected {MAX_BYTES} at most")
    card = json.dumps(asdict(memory.card), indent=1, ensure_ascii=False) + "\n"
    prints = {"weights": weights_print(folder), "card": hashlib.sha256(card.encode()).hexdigest()[:8]}
    write_safetensors(folder / MEMORY, tensors, prints)
    write_text(folder / MEMORY_CARD, card)


def load_memory(folder: Path) -> PartMemory | None:
    """None where the folder has none, or one of other weights, which is said in the log. Raises `CheckpointError`."""
    path = folder / MEMORY
    if not path.is_file():
        return None
    if made_for(path) != weights_print(folder):
        logger.warning("%s: fitted on other weights, so not used; finetune again", path)
        return None
    card = MemoryCard.from_file(folder / MEMORY_CARD)
    tensors = read_safetensors(path)
    try:
        heads, second = (_heads(tensors, which, len(card.names)) for which in ("heads", "second"))
        if bool(second) != bool(card.around):
            raise ValueError(f"{len(second)} heads of a second round, which reads {len(card.around)} names")
        width = heads[0].first.in_features + MAPS_PER_NAME * len(card.around)
        if any(head.first.in_features != width for head in second):
            raise ValueError(f"a second round of other width than {width}")
        if not card.is_base:
            return PartMemory(heads, card, second, _presence(tensors, card))
        from calico.part_memory.base import BaseMemory

        likeness = affinity = None  # memories of before have none
        if own := _under(tensors, "likeness."):
            likeness = nn.Linear(own["weight"].shape[1], 1).eval().requires_grad_(False)
            likeness.load_state_dict(own)
        if own := _under(tensors, "affinity."):
            affinity = AffinityHead.from_tensors(own)
    except (KeyError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the weights of {MEMORY_CARD} ({error}); copy the version again") from None
    return BaseMemory(heads, card, likeness, affinity)


def _presence(tensors: Mapping[str, Tensor], card: MemoryCard) -> Presence | None:
    """Raises `ValueError`."""
    own = _under(tensors, "presence.")
    if bool(own) != (card.least_presence is not None):
        raise ValueError("a presence without its cutoff, or the reverse")
    if not own:
        return None
    presence = Presence(own["weight"].shape[1], len(card.object_names) + 1)
    presence.load_state_dict(own)
    return presence.eval().requires_grad_(False)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value.float() for name, value in tensors.items() if name.startswith(prefix)}


def _heads(tensors: Mapping[str, Tensor], which: str, num_names: int) -> list[PartHead]:
    numbers = sorted({int(name.split(".")[1]) for name in tensors if name.startswith(f"{which}.")})
    return [_head(_under(tensors, f"{which}.{k}."), num_names) for k in numbers]


def _head(own: Mapping[str, Tensor], num_names: int) -> PartHead:
    hidden, num_features = own["first.weight"].shape
    head = PartHead(num_features, hidden, num_names)
    head.load_state_dict(own)
    return head.eval().requires_grad_(False)
