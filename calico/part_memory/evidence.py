"""A prediction seen again in the light of the memory.

1. *Object*: where the memory sees a taught object, the image is called by it, whatever the language model said; parts
   that it named of another object are left out (`memory_object`). But where the two see different things, and nobody
   taught what the language model named, the surer one is believed: a bird's leg is no turbine.
2. *Parts*: a taught part that the memory sees is proposed though the language model did not say it. Where both have a
   mask of one name, that with the higher estimate of its IoU stays.
3. *Doubt*: a taught part that the memory does not see, and a taught object on an image where it sees none, keep their
   masks with half the score (`memory_doubt`).
4. Names that nobody taught go on as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from calico.correspondence import co_segmentation
from calico.masks import iou
from calico.part_memory.memory import Sight
from calico.values import CoSegmentation, NamedMask, PartRegion, Problem

DOUBT = 0.5  # of the score of what the memory should see and does not
SAME_IOU = 0.5  # of two masks: they mean one thing, under whatever names


def remembered(found: CoSegmentation, sights: Sequence[Sight | None], object_names: Collection[str]) -> CoSegmentation:
    """The co-segmentation after the rules above. sights: of each image. object_names: all that were taught."""
    masks: list[NamedMask] = []
    problems: list[Problem] = []
    for image, sight in enumerate(sights):
        own = [region for region in found.regions if region.image == image]
        said = own[0].object_name if own else ""
        if sight is not None and said not in object_names and _is_other(own, sight):
            masks += [region.named for region in own]
            continue
        if sight is None:
            doubted = said in object_names
            if doubted:
                problems.append(_doubt(image, said))
            masks += [_halved(region.named) if doubted else region.named for region in own]
            continue
        if said and said != sight.object_name:
            lost = sum(region.part_name is not None and region.part_name not in sight.parts for region in own)
            message = f"image {image + 1} was called {said!r}; the memory knows it as {sight.object_name!r}"
            problems.append(
                Problem("memory_object", message + (f", {lost} parts of {said!r} left out" if lost else ""), image)
            )
            own = [region for region in own if region.part_name in sight.parts]
        best = sight.regions
        for region in own:
            mask = region.named._replace(object_name=sight.object_name)
            seen = best.get(region.part_name)
            if seen is None and region.part_name in sight.unseen:
                problems.append(_doubt(image, str(region.part_name)))
                mask = _halved(mask)
            if seen is None or mask.score > seen.score:
                masks.append(mask._replace(is_taught=region.is_taught or seen is not None))
                best.pop(region.part_name, None)
        masks += [NamedMask(image, sight.object_name, part, seen.mask, seen.score, True) for part, seen in best.items()]
    masks.sort(key=lambda item: (item.part_name is not None, item.part_name or "", item.image))
    result = co_segmentation(found.sizes_hw, masks)
    return replace(result, answers=found.answers, problems=(*found.problems, *problems))


def _is_other(own: Sequence[PartRegion], sight: Sight) -> bool:
    """Whether an object was seen elsewhere on the image than the memory's, with a higher estimate of its IoU."""
    return any(
        region.part_name is None
        and region.score > sight.object.score
        and iou(region.mask, sight.object.mask) < SAME_IOU
        for region in own
    )


def proposed(
    found: CoSegmentation, sights: Sequence[Sight | None], trusts: Sequence[float], taught: Collection[str] = ()
) -> CoSegmentation:
    """The co-segmentation by who is believed on each image: the language model or a checkpoint's own memory.

    trusts: of each image, the factor that makes the language model's scores estimates of IoU there. Where the memory's
    estimate of the object's IoU is higher, object and parts are the memory's. taught: objects that a team taught the
    language model; where it names one, nothing changes.
    """
    masks: list[NamedMask] = []
    for image, (sight, trust) in enumerate(zip(sights, trusts, strict=True)):
        own = [region.named for region in found.regions if region.image == image]
        if not own or own[0].object_name not in taught:
            own = [region._replace(score=region.score * trust) for region in own]
            said = max((region.score for region in own if region.part_name is None), default=0.0)
            if sight is not None and sight.object.score > said:
                own = [
                    NamedMask(image, sight.object_name, part, *seen, certainty=sight.certainty)
                    for part, seen in sight.regions.items()
                ]
        masks += own
    masks.sort(key=lambda item: (item.part_name is not None, item.part_name or "", item.image))
    result = co_segmentation(found.sizes_hw, masks)
    return replace(result, answers=found.answers, problems=found.problems)


def _halved(mask: NamedMask) -> NamedMask:
    certainty = None if mask.certainty is None else mask.certainty * DOUBT
    return mask._replace(score=mask.score * DOUBT, certainty=certainty)


def _doubt(image: int, name: str) -> Problem:
    return Problem("memory_doubt", f"image {image + 1}: the memory was taught {name!r} and does not see it", image)
