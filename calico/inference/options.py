"""How a model is served: in which numbers, how much at once, what is kept. Says nothing about which model."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 2**20
SHARED_IMAGES = 2


@dataclass(frozen=True)
class ServingOptions:
    """dtype: `float32` or `bfloat16` (the mask decoder is float32 in any case); None: bfloat16 where the files hold it
    and the device is a GPU, else float32. llm_bits: 8 or 4 for the language model's linears, None for `dtype`.

    compiled: decode steps through torch.compile; the first groups of each kind then take long.
    groups_at_once: answered as one batch. images_at_once: through the encoders together. shares_card: a GPU's memory is
    another process's too, so no more goes through the encoders than `Workload` counts.
    encoding_bytes, host_encoding_bytes: encodings kept on the device, and beyond it in the host's memory (of a GPU).
    mask_bytes: what one call of the mask decoder may take, roughly; None: 2 GiB on a GPU, on a CPU 64 MiB, beyond which
    a call of the tiny model leaves the processor's caches.
    """

    dtype: str | None = None
    llm_bits: int | None = None
    compiled: bool = False
    groups_at_once: int = 16
    images_at_once: int = 8
    encoding_bytes: int = 256 * MEBIBYTE
    host_encoding_bytes: int = 1024 * MEBIBYTE
    mask_bytes: int | None = None
    shares_card: bool = False

    def images_at_once_on(self, device_type: str) -> int:
        return SHARED_IMAGES if self.shares_card and device_type == "cuda" else self.images_at_once

    def mask_bytes_on(self, device_type: str) -> int:
        if self.mask_bytes is not None:
            return self.mask_bytes
        return 64 * MEBIBYTE if device_type == "cpu" else 2048 * MEBIBYTE
