"""A checkpoint's own memory, of many classes: who is believed on an image, and names and masks where that is it.

One head over all names, with the whole image as context; a *likeness*: whether the image looks like what the language
model was trained on long enough, which is drawings; and an *affinity*, which answers clicks on what does not. All are
fitted once (`calico.training.base_memory`, `calico.training.affinity`) and lie beside the checkpoint's weights. Ours,
not the paper's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from calico.part_memory.affinity import AffinityHead
from calico.part_memory.head import PartHead
from calico.part_memory.memory import Belief, MemoryCard, PartMemory, Sight
from calico.part_memory.pyramid import PyramidFeatures
from calico.values import normalize_name

UNKNOWN_SHARE = 0.5  # of images, that show what nobody taught the memory
COARSER = 2  # times the grid of a team's heads, on which objects are chosen among all


class BaseMemory(PartMemory):
    """As a team's, but a group's objects are chosen together, among all that it knows, and each is that certain."""

    def __init__(
        self,
        heads: Sequence[PartHead],
        card: MemoryCard,
        likeness: nn.Linear | None = None,
        affinity: AffinityHead | None = None,
    ) -> None:
        """likeness: of the coarsest map's mean, one logit; None: the language model is believed everywhere. affinity:
        None: clicks are the mask decoder's."""
        super().__init__(heads, card)
        self.likeness, self.affinity = likeness, affinity

    def tensors(self) -> dict[str, Tensor]:
        own = {"likeness": self.likeness, "affinity": self.affinity}
        return super().tensors() | {
            f"{which}.{name}": value
            for which, module in own.items()
            if module is not None
            for name, value in module.state_dict().items()
        }

    def with_card(self, card: MemoryCard) -> BaseMemory:
        return BaseMemory(self.heads, card, self.likeness, self.affinity)

    @torch.inference_mode()
    def trust(self, features: PyramidFeatures) -> float:
        """The factor that makes the language model's scores on an image estimates of IoU: 1 on a drawing."""
        drawn = self.likeness_of(features)
        return drawn + (1 - drawn) * self.card.belief.language_trust

    @torch.inference_mode()
    def likeness_of(self, features: PyramidFeatures) -> float:
        """The chance that an image is a drawing; 1 where no likeness is known."""
        if self.likeness is None:
            return 1.0
        return float(self.likeness(features.maps[-1].flatten().float()).sigmoid())

    def trusting(self) -> BaseMemory:
        """With the language model's scores as they are, for one that has learnt since they were measured."""
        belief = replace(self.card.belief, language_trust=1.0)
        return self.with_card(replace(self.card, belief=belief))

    @torch.inference_mode()
    def sights(
        self,
        features: Sequence[PyramidFeatures],
        sizes_hw: Sequence[tuple[int, int]],
        names: Collection[str] | None = None,
    ) -> list[Sight | None]:
        """Of each image of a group; None where no object that it knows is seen. names: of a fixed vocabulary, what may
        be called so."""
        vocabulary = None if names is None else {normalize_name(name) for name in names}
        of_object = {name: codes for name, codes in self.codes.items() if vocabulary is None or name in vocabulary}
        if not of_object:
            return [None] * len(features)
        masses = torch.stack([self.masses(one, of_object.values()) for one in features])
        chances = chances_of(masses, self.card.belief)[:, 1:]
        sights = []
        for one, size_hw, own in zip(features, sizes_hw, chances, strict=True):
            place = int(own.argmax())
            sight = self.sight_as(list(of_object)[place], one, size_hw, float(own[place]))
            sights.append(sight if sight is None or vocabulary is None else sight.among(vocabulary))
        return sights

    @torch.inference_mode()
    def sight_as(
        self, object_name: str, features: PyramidFeatures, size_hw: tuple[int, int], certainty: float = 1.0
    ) -> Sight | None:
        """What an image shows of this object. certainty: that it shows it."""
        codes = self.codes[object_name]
        chances = torch.stack([head.over(features, [0, *codes]).softmax(0) for head in self.heads]).mean(0)
        return self._sight(object_name, chances, size_hw, certainty)

    def sight(self, features: PyramidFeatures, size_hw: tuple[int, int]) -> Sight | None:
        """Of an image alone. size_hw: of the image."""
        return self.sights([features], [size_hw])[0]

    @torch.inference_mode()
    def masses(self, features: PyramidFeatures, of_object: Collection[Sequence[int]]) -> Tensor:
        """N, of each object the share of an image's pixels that the head gives to its names. of_object: their codes."""
        mass = self.probabilities(features.coarser(COARSER)).flatten(1).mean(1)
        return torch.stack([mass[list(codes)].sum() for codes in of_object])


def chances_of(masses: Tensor, belief: Belief) -> Tensor:
    """I x (1 + N), of each image of a group: that it shows an object that the memory does not know, and each that it
    knows. Rows add up to 1. masses: I x N.

    Of an image alone, the share that its mass has. Then each image hears the others: beside one that surely shows an
    object, that object is likelier, by `alike`. For two images that is Bayes' rule; of more each is heard by itself.
    """
    sharpened = masses.clamp(min=1e-9) ** belief.sharpness
    alone = torch.cat([torch.full_like(sharpened[:, :1], max(1e-9, belief.unknown)), sharpened], 1)
    alone = alone / alone.sum(1, keepdim=True)
    usual = torch.full_like(alone[0], (1 - UNKNOWN_SHARE) / masses.shape[1])
    usual[0] = UNKNOWN_SHARE
    said = (1 - belief.alike + belief.alike * alone / usual).log()  # what each image says to each other one
    return (alone.log() + said.sum(0) - said).softmax(1)
