"""Sizes of the trunks that a config may name. No torch, so that preprocessing knows them too."""

from __future__ import annotations

from typing import Any, NamedTuple

MeanStd = tuple[tuple[float, ...], tuple[float, ...]]


class Stage(NamedTuple):
    """Blocks of one width. kernel: side of the depthwise convolution in pixels. stride: of the first block."""

    width: int
    num_blocks: int
    kernel: int
    stride: int
    expansion: int = 6


class TrunkSize(NamedTuple):
    """Stages after the stem, and the mean and standard deviation that pixels of 0 to 1 are normalised with."""

    stem: int
    stages: tuple[Stage, ...]
    mean_std: MeanStd = ((127 / 255,) * 3, (128 / 255,) * 3)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the maps at strides 2, 4, 8, ...: of the last stage before each next stride."""
        taps = [*(stage.stride > 1 for stage in self.stages[1:]), True]
        return tuple(stage.width for stage, is_last in zip(self.stages, taps, strict=True) if is_last)


NUM_LEVELS = 5  # strides 2, 4, 8, 16 and 32
PIXELS = ""  # in place of a backbone's stage: the pixels themselves, a block of them a place

PRETRAINED = ("efficientnet-lite0",)  # of `TRUNKS`, those whose weights come in a package

TRUNKS = {
    "efficientnet-lite0": TrunkSize(
        32,
        (
            Stage(16, 1, 3, 1, 1),
            Stage(24, 2, 3, 2),
            Stage(40, 2, 5, 2),
            Stage(80, 3, 3, 2),
            Stage(112, 3, 5, 1),
            Stage(192, 4, 5, 2),
            Stage(320, 1, 3, 1),
        ),
    ),
    "micro": TrunkSize(  # for tests: every kind of block, next to no weights
        8, (Stage(8, 1, 3, 1, 1), Stage(8, 2, 3, 2), Stage(12, 1, 5, 2), Stage(16, 1, 3, 2), Stage(24, 1, 5, 2))
    ),
}


class BackboneLevels(NamedTuple):
    """A backbone of `transformers` as a trunk, as `CalicoConfig.backbone` describes it.

    config: of `transformers`, with its `model_type`. stages: of each level, strides 2 to 32, the stage whose map is
    taken, or `PIXELS`. widths: channels of each level. scale: of the frame's side, at which the backbone looks (14/16
    for patches of 14 pixels). mean_std: of pixels from 0 to 1.
    """

    config: dict[str, Any]
    stages: tuple[str, ...]
    widths: tuple[int, ...]
    scale: float
    mean_std: MeanStd
