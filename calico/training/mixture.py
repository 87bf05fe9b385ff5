"""Several sources of annotated images, trained on at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from calico.data.scenes import SceneSettings
from calico.training.pools import ImagePool


@dataclass(frozen=True)
class Mixture:
    """pools: the sources. shares: of the classes of a step, those drawn from each; they sum to 1."""

    pools: Sequence[ImagePool]
    shares: tuple[float, ...]
    scenes: SceneSettings = field(default_factory=SceneSettings)

    @property
    def version(self) -> str:
        """Drawings first, which is what a finetune replays where nothing else is named."""
        return "+".join(sorted(pool.version for pool in self.pools))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({name for pool in self.pools for name in pool.keys}))

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part for pool in self.pools for part in pool.parts))
