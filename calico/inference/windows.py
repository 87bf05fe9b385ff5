"""Groups larger than a checkpoint was trained on: overlapping windows of a few images, merged by name.

Checkpoints are trained on groups of up to four; asked about more at once they lose count of the images. So a larger
group is asked about in windows that overlap by one image at least, and what they say is put together:

1. *Object*: the name with the highest score, summed over the windows that show the image.
2. *Mask*: of one region in several windows the one with the best score.
3. *Name*: two regions of one image with different names that are the same mask (`SAME_MASK_IOU`) are one; the better
   score names it: `window_disagreement`.
4. Correspondence and occurrence follow from the names over all images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from calico.correspondence import co_segmentation
from calico.masks import iou
from calico.values import CoSegmentation, ImageGroup, NamedMask, PartRegion, Problem, RegionKey, SubTask

WINDOW_SIZE = 4
SAME_MASK_IOU = 0.7


def windows(num_images: int) -> list[tuple[int, ...]]:
    """Indices of the images of each window, ascending: one where they fit, else as few as overlap by one image."""
    if num_images <= WINDOW_SIZE:
        return [tuple(range(num_images))]
    count = -(-(num_images - 1) // (WINDOW_SIZE - 1))
    starts = [round(k * (num_images - WINDOW_SIZE) / (count - 1)) for k in range(count)]
    return [tuple(range(start, start + WINDOW_SIZE)) for start in starts]


def windows_of(image: int, num_images: int) -> tuple[int, ...]:
    """The first window that shows an image."""
    return next(window for window in windows(num_images) if image in window)


def part_of(group: ImageGroup, images: Sequence[int]) -> ImageGroup:
    """These images of a group as a group of their own."""
    if len(images) == len(group):
        return group
    return ImageGroup(tuple(group.images[i] for i in images), tuple(group.names[i] for i in images))


def merge(
    sizes_hw: Sequence[tuple[int, int]], windows: Sequence[Sequence[int]], results: Sequence[CoSegmentation]
) -> CoSegmentation:
    """What each window says (its image indices counting from 0) as one co-segmentation of the whole group.

    sizes_hw: (height, width) of each image of the group. windows: for each the images that it shows.
    """
    if len(results) == 1:
        return results[0]
    problems = [
        Problem(
            problem.code,
            f"{_title(images)}: {problem.message}",
            None if problem.image is None else images[problem.image],
        )
        for images, one in zip(windows, results, strict=True)
        for problem in one.problems
    ]
    regions = [
        (images[region.image], region) for images, one in zip(windows, results, strict=True) for region in one.regions
    ]
    objects = _objects(regions)
    best: dict[RegionKey, PartRegion] = {}
    for image, region in regions:
        if region.kind == "object" and region.object_name != objects[image]:
            continue
        key = RegionKey(image, region.kind, region.name)
        if key not in best or region.score > best[key].score:
            best[key] = region
    for key in _renamed(best, problems):
        del best[key]
    masks = [
        NamedMask(key.image, objects[key.image], region.part_name, region.mask, region.score)
        for key, region in sorted(
            best.items(), key=lambda item: (item[0].kind, item[0].kind == "part" and item[0].name)
        )
    ]
    answers = {
        sub_task: "\n".join(
            f"{_title(images)}: {one.answers[sub_task]}"
            for images, one in zip(windows, results, strict=True)
            if sub_task in one.answers
        )
        for sub_task in SubTask
        if any(sub_task in one.answers for one in results)
    }
    return co_segmentation(sizes_hw, masks, answers=answers, problems=problems)


def _title(images: Sequence[int]) -> str:
    return f"images {images[0] + 1} to {images[-1] + 1}"


def _objects(regions: Sequence[tuple[int, PartRegion]]) -> dict[int, str]:
    """The object's name of each image. A window that knows only parts of an image has a name of its own for it, too."""
    totals: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for image, region in regions:
        totals[image][region.object_name] += region.score if region.kind == "object" else 1e-6 * region.score
    return {image: max(scores, key=scores.__getitem__) for image, scores in totals.items()}


def _renamed(best: dict[RegionKey, PartRegion], problems: list[Problem]) -> set[RegionKey]:
    """Parts that another window names otherwise and better; appends a problem for each."""
    gone: set[RegionKey] = set()
    parts = [key for key in best if key.kind == "part"]
    for a, b in combinations(parts, 2):
        if a.image != b.image or {a, b} & gone or iou(best[a].mask, best[b].mask) < SAME_MASK_IOU:
            continue
        kept, lost = (a, b) if best[a].score >= best[b].score else (b, a)
        gone.add(lost)
        message = f"image {a.image + 1}: {kept.name!r} and {lost.name!r} are one part in two windows; kept the first"
        problems.append(Problem("window_disagreement", message, a.image))
    return gone
