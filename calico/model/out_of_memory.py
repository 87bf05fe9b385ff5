"""Work on a batch that may not fit: halved and tried once more, and said."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from calico.errors import CalicoError

logger = logging.getLogger(__name__)
_IN_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",  # Linux's
    "CUBLAS_STATUS_ALLOC_FAILED",  # cuBLAS has no workspace; its other failures are none of memory
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
)
Item = TypeVar("Item")
Result = TypeVar("Result")


class OutOfMemory(CalicoError):
    """Half a batch did not fit either."""


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU, or of the host: torch has a class for the first and says the second in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _IN_WORDS)
    )


def give_back_memory() -> None:
    """What dropped models and failed calls held goes back to the system: reference cycles, and the GPU's own cache.

    No module holds a model in a cycle, but an exception that a library keeps (matplotlib does) holds all frames below.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_halves(
    run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], what: str, notices: list[str]
) -> list[Result]:
    """run(items); where memory does not suffice, of each half once. run gives one result per item, in order.

    what: the items in words, for the notice that is logged and added to `notices`. Raises OutOfMemory.
    """
    try:
        return run(items)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if len(items) < 2:
            raise OutOfMemory(f"memory ran out over 1 of {what}; serve the model in fewer bits") from error
    # Outside of the handler, whose traceback holds the tensors that did not fit.
    give_back_memory()
    half = (len(items) + 1) // 2
    notice = f"memory ran out over {len(items)} {what}; tried again with {half} at once"
    logger.warning("%s", notice)
    notices.append(notice)
    try:
        return [*run(items[:half]), *run(items[half:])]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"memory ran out over {len(items)} {what}, and over {half}; give fewer groups at once"
        ) from error
