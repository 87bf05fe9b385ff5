"""Serving and training on one GPU: said at start whether both fit, and a job is cut to what is free when it begins."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from backend.settings import Settings
from calico.errors import InputError

if TYPE_CHECKING:
    import torch

    from calico.training.finetune_settings import FinetuneSettings

log = logging.getLogger("calico.backend")

WAIT_S = 180.0  # that a job waits for memory that is being given back
LOOK_S = 2.0
SHARE, ALONE = "share", "alone"


def tell_card(settings: Settings, folder: Path | None) -> bool | None:
    """Logs whether the model in `folder`, a job and a switch fit on the card, as a warning where they do not.

    Returns the same; None where nothing is trained, or on no GPU. What is wrong with a checkpoint, loading will say.
    """
    import torch

    from calico.errors import CheckpointError
    from calico.training.card import plan_card
    from calico.training.recipe import finetune_settings
    from calico.training.starting_model import start_config

    if settings.versions is None or (settings.device or "cuda") == "cpu" or not torch.cuda.is_available():
        return None
    try:
        config = start_config(folder)
    except (CheckpointError, OSError):
        return None
    total = torch.cuda.get_device_properties(settings.device or "cuda").total_memory
    run_settings = finetune_settings(config, bits=settings.llm_bits)
    line, fits = plan_card(config, run_settings, settings.llm_bits, torch.bfloat16).verdict(total, settings.llm_bits)
    if settings.training_card == ALONE:
        log.info("%s (the model rests while a job trains)", line.partition(": fits")[0])
    else:
        log.log(logging.INFO if fits else logging.WARNING, "%s", line)
    return fits


def cut_to_card(
    run_settings: FinetuneSettings,
    folder: Path | None,
    device: torch.device,
    say: Callable[[str], None],
    *,
    wait_s: float = WAIT_S,
    sleep: Callable[[float], None] = time.sleep,
) -> FinetuneSettings:
    """The settings in micro-batches that fit into what is free of the card; as asked for on a CPU.

    Waits while what was let go of comes back. say: what is waited for. Raises `InputError` where not even the smallest
    job fits then.
    """
    import torch

    from calico.model.memory import free_bytes
    from calico.training.card import GIB, fitting, job_sizes
    from calico.training.starting_model import start_config

    if device.type != "cuda":
        return run_settings
    sizes = list(job_sizes(start_config(folder), run_settings, run_settings.bits, torch.bfloat16))
    waited = 0.0
    while (size := fitting(sizes, free := free_bytes(device) or 0)) is None:
        if waited >= wait_s:
            least = sizes[-1]
            fewer = "" if run_settings.bits == 4 else "CALICO_LLM_BITS=4, "
            raise InputError(
                f"a training job takes about {least.num_bytes / GIB:.1f} GiB with {least}, and {device} has "
                f"{free / GIB:.1f} free beside the model that serves; set {fewer}CALICO_TRAINING_CARD=alone, or "
                "train on another machine with `calico finetune`"
            )
        say(f"waits for {sizes[-1].num_bytes / GIB:.1f} GiB of {device}, {free / GIB:.1f} are free")
        sleep(LOOK_S)
        waited += LOOK_S
    log.info("%s has %.1f GiB free: the job takes about %.1f, %s", device, free / GIB, size.num_bytes / GIB, size)
    return size.of(run_settings)
