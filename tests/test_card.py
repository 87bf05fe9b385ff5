"""One card for a backend and its training job: what both take, what is said at start, and a job cut to what is free."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from real_kinds import real_kinds, save_real_kinds
from test_finetune import QUICK

from backend.learning import card as backend_card
from backend.learning.card import cut_to_card, tell_card
from backend.services import serving_options
from backend.settings import Settings
from calico.errors import InputError
from calico.model import memory
from calico.model.config import calico_1b, calico_7b
from calico.training.card import CONTEXT_BYTES, GIB, CardPlan, JobSize, fitting, job_sizes, plan_card
from calico.training.recipe import finetune_settings

GPU = torch.device("cuda")


def plan_of(config, bits):
    return plan_card(config, finetune_settings(config, bits=bits), bits, torch.bfloat16)


def test_full_size_in_4_bits_serves_and_trains_on_one_card_of_24_gib_and_not_in_more():
    four, whole = (plan_of(calico_7b(), bits) for bits in (4, None))
    job = four.job_beside(24 * GIB)
    assert job is not None
    assert job.num_images == 2
    assert four.serving + job.num_bytes <= 24 * GIB
    assert four.verdict(24 * GIB, 4)[1]
    assert "fits" in four.verdict(24 * GIB, 4)[0]
    for plan, bits, hint in ((whole, None, True), (four, 4, False)):
        line, fits = plan.verdict(20 * GIB, bits)
        assert not fits
        assert ("CALICO_LLM_BITS=4 takes less" in line) == hint
        assert "CALICO_TRAINING_CARD=alone" in line
    assert not whole.verdict(24 * GIB, None)[1]
    assert whole.verdict(80 * GIB, None)[1]
    assert plan_of(calico_1b(), 4).verdict(16 * GIB, 4)[1]
    assert fitting(plan_of(calico_1b(), 4).jobs, 12 * GIB) is not None  # with the card to itself


def test_a_switch_that_does_not_fit_is_told():
    plan = CardPlan(10 * GIB, 22 * GIB, [JobSize(1, 4, 40, 5 * GIB)])
    line, fits = plan.verdict(20 * GIB, 4)
    assert not fits
    assert "a switch will not fit" in line


def test_a_job_is_cut_from_as_asked_to_two_images_with_few_masks():
    settings = finetune_settings(calico_7b(), bits=4)
    sizes = list(job_sizes(calico_7b(), settings, 4, torch.bfloat16))
    assert [(s.num_parts, s.num_images, s.max_seg_prompts) for s in sizes] == [
        (10, 4, 40), (20, 2, 20), (20, 2, 10), (20, 2, 8),
    ]  # fmt: skip
    assert all(a.num_bytes > b.num_bytes for a, b in itertools.pairwise(sizes))
    assert sizes[-1].num_bytes > CONTEXT_BYTES
    assert (sizes[1].of(settings).num_parts, sizes[1].of(settings).max_seg_prompts) == (20, 20)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_real_kinds(tmp_path / "base")


def test_a_job_takes_what_fits_waits_for_it_and_is_refused_in_one_line(base, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    asked = replace(QUICK, batch=replace(QUICK.batch, num_images=8), max_seg_prompts=32)
    sizes = list(job_sizes(real_kinds(), asked, None, torch.bfloat16))
    assert len(sizes) == 3
    free, waits = [sizes[1].num_bytes], []
    monkeypatch.setattr(memory, "free_bytes", lambda device: free[0])

    def cut(device=GPU, **options):
        return cut_to_card(asked, base, device, waits.append, wait_s=4.0, **options)

    assert cut(torch.device("cpu")) == asked
    assert (cut().num_parts, cut().max_seg_prompts) == (2, 16)
    assert "the job takes about" in caplog.text
    free[0] = 10

    def come_back(seconds):
        free[0] = sizes[0].num_bytes

    assert cut(sleep=come_back) == replace(asked, num_parts=1)
    assert len(waits) == 1
    assert "waits for" in waits[0]
    free[0] = 10
    says = r"a training job takes about .* set CALICO_LLM_BITS=4, CALICO_TRAINING_CARD=alone"
    with pytest.raises(InputError, match=says):
        cut(sleep=lambda seconds: None)
    with pytest.raises(InputError, match=r"set CALICO_TRAINING_CARD=alone, or train on another machine"):
        cut_to_card(replace(asked, bits=4), base, GPU, waits.append, wait_s=0.0)


def test_the_start_tells_whether_both_fit(base, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    settings = Settings(versions=tmp_path / "registry")
    assert tell_card(replace(settings, device="cpu"), base) is None
    assert tell_card(Settings(), base) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for total, fits in ((24 * GIB, True), (2 * GIB, False)):
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d, t=total: SimpleNamespace(total_memory=t))
        assert tell_card(settings, base) is fits
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "will not fit" in caplog.text
    tell_card(replace(settings, training_card=backend_card.ALONE), base)
    assert "the model rests while a job trains" in caplog.records[-1].message
    assert tell_card(settings, tmp_path / "nothing") is None


def test_who_shares_a_card_encodes_no_more_at_once_than_was_counted(tmp_path):
    shared = serving_options(Settings(versions=tmp_path))
    assert (shared.images_at_once_on("cuda"), shared.images_at_once_on("cpu")) == (2, 8)
    for other in (Settings(), Settings(versions=tmp_path, training_card="alone")):
        assert serving_options(other).images_at_once_on("cuda") == 8
