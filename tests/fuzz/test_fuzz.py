"""No input ends a decoder with an error that is not ours, takes it over two seconds, or much memory.

CALICO_FUZZ_SECONDS=60 python -m pytest tests/fuzz
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, seed, settings
from targets import TARGETS, Target

from calico.errors import CalicoError

SECONDS = float(os.environ.get("CALICO_FUZZ_SECONDS", "0.3"))
MAX_INPUT_S = 2.0
MAX_GROWTH_BYTES = 500e6
ROUND = 25  # inputs between looks at the time


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", TARGETS)
def test_whatever_comes_is_decoded_or_refused_in_a_line(name: str) -> None:
    target = TARGETS[name]
    first = 0 if SECONDS < 10 else random.randrange(1 << 30)  # the same inputs in the short run, others in the long one
    before, until = psutil.Process().memory_info().rss, time.monotonic() + SECONDS
    while True:
        _round(target, first)
        first += 1
        if time.monotonic() >= until:
            break
    assert psutil.Process().memory_info().rss - before < MAX_GROWTH_BYTES


def _round(target: Target, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
    @given(target.inputs)
    def one(value: Any) -> None:
        started = time.thread_time()
        try:
            target.decode(value)
        except CalicoError as error:
            if "\n" in str(error):
                raise AssertionError("an error of several lines") from error
        assert time.thread_time() - started < MAX_INPUT_S

    one()
