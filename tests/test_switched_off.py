"""`calico evaluate --without`: a module that is out of action changes what it should, and nothing else."""

from __future__ import annotations

import pytest
import torch

from calico.errors import InputError
from calico.evaluation.switched_off import MODULES, switch_off
from calico.inference.segmenter import CoSegmenter
from calico.model.builder import build
from calico.model.calico import Pixels
from scripts import evaluate
from tests.test_trunk import SIZE, TOKENIZER, micro_small


def test_a_module_is_out_of_action() -> None:
    torch.manual_seed(0)
    config = micro_small()
    model = build(config)
    torch.nn.init.normal_(model.cem.attention.out_proj.weight)  # type: ignore[union-attr, arg-type]
    segmenter = CoSegmenter(model, config, TOKENIZER)
    pixels = Pixels(*[torch.randn(1, 3, SIZE, SIZE)] * 3)
    with torch.no_grad():
        before, states = model.encode_with_states(pixels)
        assert not torch.equal(before.refined_tokens, states.global_tokens)
        switch_off(segmenter, ["cem"])
        after = model.encode(pixels)
    torch.testing.assert_close(after.refined_tokens, states.global_tokens)
    torch.testing.assert_close(after.image_tokens, before.image_tokens)
    switch_off(segmenter, ["cam"])
    assert len(model.cams) == len(model.cam_layers) == 0
    with pytest.raises(InputError, match="expected some of cem"):
        switch_off(segmenter, ["llm"])
    assert evaluate.MODULES == MODULES


def test_serving_imports_no_peft() -> None:
    import subprocess
    import sys

    code = "import sys; import calico.inference.segmenter; print(sorted({'peft', 'bitsandbytes'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
