"""A snapshot's groups in training: decoded when asked for, kept within a bound; batches made ahead are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from micro import TOKENIZER
from real_kinds import real_kinds, save_real_kinds
from test_finetune import BATCH, INPUTS, QUICK, group_of, write

from calico.checkpoints.files import write_safetensors
from calico.checkpoints.fingerprint import fingerprint
from calico.data.groups import draw_group
from calico.errors import InputError
from calico.model.out_of_memory import is_out_of_memory
from calico.model.precision import check_device
from calico.snapshots.store import Snapshot
from calico.snapshots.writer import SnapshotWriter
from calico.training.corrections import CorrectionBatches, drawings, read_splits
from calico.training.finetune import Finetune
from calico.training.prefetch import Prefetcher
from calico.training.snapshot_groups import SnapshotGroups, read_groups


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return write(tmp_path_factory.mktemp("feedback") / "s", range(6))


def test_groups_are_decoded_when_asked_for_and_the_last_ones_kept(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real = Snapshot.load_images
    monkeypatch.setattr(Snapshot, "load_images", lambda self, group: loads.append(group.id) or real(self, group))
    ids = [group.id for group in snapshot.groups()]
    groups = read_groups(snapshot, ids, 48)
    assert [outline.id for outline in groups.outlines] == ids
    assert loads == []
    whole = list(groups)
    assert [group.id for group in whole] == loads == ids
    for outline, group in zip(groups.outlines, whole, strict=True):
        assert (outline.names, outline.num_images, outline.weight) == (group.names, group.num_images, group.weight)
    room = max(group.num_bytes for group in whole)
    tight = SnapshotGroups(snapshot, groups.outlines, 48, max_bytes=2 * room)
    for _ in range(2):
        for _group in tight:
            assert tight.num_bytes <= 2 * room
    loads.clear()
    assert tight[5].id == tight[5].id == ids[5]
    assert loads == []  # the last one is still there
    assert tight[0].id == ids[0]
    assert loads == [ids[0]]


def test_a_snapshot_without_images_is_refused_before_it_is_trained_on(tmp_path: Path) -> None:
    images = draw_group(1, group_size=2, size=40)
    group = group_of(1, images)
    bare = tuple(replace(reference, digest=None) for reference in group.images)
    with SnapshotWriter(tmp_path / "s") as writer:
        writer.add(replace(group, images=bare))
        made = writer.finish()
    with pytest.raises(InputError, match="made without images"):
        read_splits(made, [group.id], 32, 1.0, 4)


def test_batches_made_ahead_are_those_made_in_place(snapshot: Snapshot) -> None:
    groups, _ = read_splits(snapshot, None, 32, 1.0, 4)
    batches = CorrectionBatches(groups, drawings, TOKENIZER, BATCH, INPUTS, 3)
    ahead = Prefetcher(batches.batch, num_workers=1, stride=2)
    places = [(1, 0, 2), (1, 1, 2), (3, 0, 2), (3, 0, 1)]  # then with other parts, as where memory ran out
    for place in places:
        random_state = torch.get_rng_state()
        found, expected = ahead(*place), batches.batch(*place)
        assert torch.equal(torch.get_rng_state(), random_state), "a resumed run begins anew here"
        assert torch.equal(found.pixels.grounding_view, expected.pixels.grounding_view)
        assert torch.equal(found.prompts.token_ids, expected.prompts.token_ids)
    ahead.stop()


def test_frozen_encoders_see_each_image_once_a_step(snapshot: Snapshot, tmp_path: Path) -> None:
    base = save_real_kinds(tmp_path / "base")
    run = Finetune(snapshot, base, tmp_path / "run", replace(QUICK, steps=1))
    assert run.model.has_frozen_encoders
    assert run.anchor is not None
    counts = dict.fromkeys(("global_encoder", "semantic_encoder", "grounding_encoder"), 0)
    for name in counts:

        def count(module: object, args: tuple[torch.Tensor, ...], output: object, name: str = name) -> None:
            counts[name] += len(args[0])

        run.model.get_submodule(name).register_forward_hook(count)
    num_images = len(run.batches.batch(0).part_maps)
    run._tried_step()
    assert counts == dict.fromkeys(counts, num_images)
    assert real_kinds().is_full_size


def test_what_differs_in_the_middle_of_a_large_file_has_another_name(tmp_path: Path) -> None:
    prints = []
    for value in (0.0, 1.0):
        big = torch.zeros(9 * 2**20, dtype=torch.uint8)
        middle = torch.full((3,), value)
        write_safetensors(tmp_path / "w", {"a": big, "b": big.clone(), "m": middle}, {})
        prints.append((fingerprint(tmp_path / "w"), fingerprint(tmp_path / "w", ends_only=True)))
    changed = bytearray((tmp_path / "w").read_bytes())
    changed[9 * 2**20] = 7  # of the stride's 4 KiB
    (tmp_path / "w").write_bytes(changed)
    assert fingerprint(tmp_path / "w") not in {name for name, _ in prints}
    small = tmp_path / "small"
    small.write_bytes(b"x" * 1000)
    assert fingerprint(small) == fingerprint(small, ends_only=True)


def test_cublas_without_memory_is_out_of_memory_and_apples_gpu_is_refused() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"))
    with pytest.raises(InputError, match="device mps: expected cpu or cuda"):
        check_device("mps")
