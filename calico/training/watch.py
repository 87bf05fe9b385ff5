"""A few pictures that a run never trains on, looked at each time it saves: clicks and boxes on real photographs, say.

Long training on drawings and renders may wear off what a pretrained trunk brings; names would need a whole evaluation,
but whether masks still follow what is there shows in seconds.
"""

from __future__ import annotations

import torch

from calico.language.tokenizer import CalicoTokenizer
from calico.mixedparts.index import MixedParts
from calico.model.calico import Pixels
from calico.model.inputs import ModelInputs
from calico.training.batches import BatchSettings, TrainingBatch
from calico.training.losses import mask_iou
from calico.training.sources import Batches, IndexSamples
from calico.training.step import TrainingStep, true_masks

NUM_LOOKS = 4
SETTINGS = BatchSettings(num_images=8, num_groups=4, num_points=24, num_boxes=24)


class Watch:
    """The same pictures, clicks and boxes each time. data: an index, of any split."""

    def __init__(self, data: MixedParts, tokenizer: CalicoTokenizer, inputs: ModelInputs) -> None:
        self._batches = Batches(IndexSamples(data), tokenizer, SETTINGS, inputs, seed=0)
        self._kept: list[TrainingBatch] = []

    @torch.no_grad()
    def look(self, step: TrainingStep) -> dict[str, float]:
        """Mean IoU of one to three clicks on parts and of boxes on parts and objects, by name; its mode is kept."""
        self._kept = self._kept or [self._batches.batch(k) for k in range(NUM_LOOKS)]
        was_training, device = step.training, step.model.device
        step.eval()
        ious: dict[str, list[torch.Tensor]] = {"watch_point_iou": [], "watch_box_iou": []}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for batch in (kept.to(device) for kept in self._kept):
                features = step.model.encode(Pixels(*batch.pixels))
                for name, clicks in (("watch_point_iou", batch.points), ("watch_box_iou", batch.boxes)):
                    part_maps = batch.part_maps[clicks.image]
                    masks = step.click_masks(features, clicks, part_maps)
                    ious[name].append(mask_iou(masks.logits, *true_masks(masks, part_maps, clicks.value)))
        step.train(was_training)
        return {name: float(torch.cat(each).mean()) for name, each in ious.items()}
