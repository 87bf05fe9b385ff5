"""What a model takes corrected objects for: those names are what it would forget first, so they are replayed most.

An umbrella that is called a lamp teaches a model to call lamps umbrellas, unless it goes on seeing lamps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from calico.inference.options import ServingOptions
from calico.inference.segmenter import CoSegmenter
from calico.language.tokenizer import CalicoTokenizer
from calico.model.calico import CalicoModel
from calico.model.config import CalicoConfig
from calico.training.corrected_groups import CorrectedGroup
from calico.values import ImageGroup, SubTask

AT_ONCE = 8
LEAST_SHARE = 0.05  # of the images, that a name must be wrongly given to
MOST_NAMES = 4


def mistaken_names(
    model: CalicoModel, config: CalicoConfig, tokenizer: CalicoTokenizer, groups: Sequence[CorrectedGroup]
) -> list[str]:
    """Object names that the model gives to the groups' images where annotators gave others, the most frequent first."""
    segmenter = CoSegmenter(model, config, tokenizer, options=ServingOptions(encoding_bytes=0, host_encoding_bytes=0))
    wrong_names: Counter[str] = Counter()
    num_images = 0
    for start in range(0, len(groups), AT_ONCE):
        batch = groups[start : start + AT_ONCE]
        pictures = [ImageGroup(tuple(image.image for image in group.images)) for group in batch]
        answers = segmenter.answer_many(pictures, (SubTask.COMMON_PARTS,))  # which names every image's object first
        for group, answer in zip(batch, answers, strict=True):
            mentions = answer[SubTask.COMMON_PARTS].parsed.mentions
            pairs = {(m.image, m.name) for m in mentions if m.kind == "object"}
            wrong_names.update(name for image, name in pairs if group.images[image].object_name not in ("", name))
            num_images += len(group.images)
    return _frequent(wrong_names.items(), LEAST_SHARE * num_images)


def _frequent(counts: Iterable[tuple[str, int]], least: float) -> list[str]:
    ranked = sorted((-count, name) for name, count in counts if count >= least)
    return [name for _, name in ranked[:MOST_NAMES]]
