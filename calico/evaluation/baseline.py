"""What one scores without looking: each class' usual parts, each as large as the whole object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from calico.correspondence import co_segmentation
from calico.data.groups import draw_batch, visible_parts
from calico.metrics.strict import Answered, asked_kind, keyed
from calico.mixedparts.index import MixedParts
from calico.values import CoSegmentation, NamedMask, SubTask, normalize_name

USUAL = 0.5  # of the images of a class: parts that fewer show are not usual


class FrequentParts:
    """It is told every image's object and the object's mask; of parts it knows how often each class shows them.

    parts_of: the usual parts of each class. what: where they were counted, for reports.
    """

    def __init__(self, parts_of: Mapping[str, Sequence[str]], what: str) -> None:
        self.parts_of = parts_of
        self.what = what

    @classmethod
    def counted(cls, images: Iterable[tuple[str, Iterable[str]]], where: str) -> FrequentParts:
        """shown: the object's name and the visible parts of each image. Usual: at least half of a class have it."""
        num_images: Counter[str] = Counter()
        counts: dict[str, Counter[str]] = {}
        for name, parts in images:
            num_images[name] += 1
            counts.setdefault(name, Counter()).update(set(parts))
        usual = {
            name: sorted(part for part, count in counter.items() if count >= USUAL * num_images[name])
            for name, counter in counts.items()
        }
        rule = "the parts that at least half of the images of a class show, each with the whole object's mask; "
        return cls(usual, f"{rule}told the objects and their masks; counted on {num_images.total()} {where}")

    @classmethod
    def of_drawings(cls, num_images: int = 560) -> FrequentParts:
        """Counted on drawings for training."""
        batches = (draw_batch(seed, num_images=28, size=64) for seed in range(num_images // 28))
        return cls.counted(
            ((item.object_name, visible_parts(item)) for batch in batches for item in batch), "drawings for training"
        )

    @classmethod
    def of_part_data(cls, data: MixedParts, *, at_most: int = 20_000) -> FrequentParts:
        """Counted on objects of an index, on those for training where it has any; at most so many, evenly spread."""
        step = max(1, data.num_objects // at_most)
        records = [data.record(number) for number in range(0, data.num_objects, step)]
        splits = sorted({record.split for record in records}, key=lambda split: (split != "train", split))[:1]
        if "train" not in splits:  # nothing to learn from but what is asked
            splits = sorted({record.split for record in records})
        parts_by_object = [
            (normalize_name(record.object_name), {normalize_name(part.name) for part in record.parts})
            for record in records
            if record.split in splits
        ]
        return cls.counted(parts_by_object, f"objects of {' and '.join(splits)}")

    def answers(
        self, truth: CoSegmentation, sub_tasks: Sequence[SubTask]
    ) -> tuple[dict[SubTask, Answered], CoSegmentation]:
        """Of each question, and reconciled."""
        masks = [
            NamedMask(region.image, region.object_name, name, region.mask)
            for region in truth.regions
            if region.kind == "object"
            for name in (None, *self.parts_of.get(region.object_name, ()))
        ]
        guess = co_segmentation(truth.sizes_hw, masks)
        answered = {}
        keys = set()
        for task in sub_tasks:
            regions = guess.restricted_to(task).regions
            keys |= {region.key for region in regions}
            answered[task] = Answered(keyed(regions), all(region.kind != asked_kind(task) for region in regions))
        return answered, CoSegmentation(guess.sizes_hw, tuple(r for r in guess.regions if r.key in keys))
