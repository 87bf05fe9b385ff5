"""What a model of a config takes: the sizes of its views, how many tokens an image is, how its conversations open."""

from __future__ import annotations

from dataclasses import dataclass

from calico.model.config import CalicoConfig
from calico.model.preprocessing import Preprocessor


@dataclass(frozen=True)
class ModelInputs:
    """preprocess: images to the three views. num_image_tokens: of one image in the language model.

    system: what stands before the first turn, empty for a language model that was trained without.
    """

    preprocess: Preprocessor
    num_image_tokens: int
    system: str = ""

    @classmethod
    def from_config(cls, config: CalicoConfig, size: int | None = None) -> ModelInputs:
        """size: as `Preprocessor.from_config` takes it."""
        return cls(Preprocessor.from_config(config, size), config.num_queries, config.system_prompt)
