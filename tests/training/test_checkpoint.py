"""Checkpoints give back what was saved, and nothing else."""

import json
import os
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xsda.training.checkpoint import differences, load_checkpoint, save_checkpoint

META = {"step": 7, "running": 0.25, "options": {"steps": 10}}


@pytest.fixture
def saved(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "network.weight": torch.randn(5, 7, generator=generator),
        "half": torch.randn(3, generator=generator).bfloat16(),
        "optimizer.0.step": torch.tensor(3.0),
        "count": torch.arange(4),
        "nothing": torch.zeros(0, 3),
    }
    path = tmp_path / "a.checkpoint"
    save_checkpoint(path, tensors, META)
    return path, tensors


def test_what_is_saved_comes_back(saved):
    path, tensors = saved
    back, meta = load_checkpoint(path)
    assert meta == META
    assert back.keys() == tensors.keys()
    for key, value in tensors.items():
        assert back[key].dtype == value.dtype
        torch.testing.assert_close(back[key], value, rtol=0, atol=0)


def refused(path):
    with pytest.raises(
        ValueError, match=rf"{path} is not a checkpoint of this xsda, or is damaged \(.*remove"
    ) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_no_damaged_byte_is_overlooked(saved):
    """Each byte of the file in turn, in one bit, and ten of them at once."""
    path, _ = saved
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*([i] for i in range(len(whole))), *(rng.choice(len(whole), 10, replace=False) for _ in range(100))]
    for place in places:
        damaged = bytearray(whole)
        for i in place:
            damaged[i] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        refused(path)
    path.write_bytes(whole)
    load_checkpoint(path)


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_file_that_was_cut_short_is_refused(saved, length):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:length])
    refused(path)


def test_a_file_without_a_checksum_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a", {"xsda": json.dumps(META)})
    refused(tmp_path / "a")


def test_a_file_that_claims_more_than_it_holds_is_refused(tmp_path):
    """Before a byte of it is allocated: this would be four terabytes."""
    end = 4 * 10**12
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, end]}}).encode()
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refused(tmp_path / "a")
    assert os.path.getsize(tmp_path / "a") < 1000


def test_only_what_differs_is_named():
    then = {"width": 8, "data": {"names": ["x", "y"], "dt": 0.5, "scale": [1.0, 2.0]}, "kernel": 3}
    now = {"width": 8, "data": {"names": ["x"], "dt": 0.5, "scale": [1.0, 2.5]}, "depth": {"blocks": 2}}
    assert differences(then, now) == [
        "data.names[1]: 'y' then, nothing now",
        "data.scale[1]: 2.0 then, 2.5 now",
        "kernel: 3 then, nothing now",
        "depth: nothing then, {'blocks': 2} now",
    ]
    assert differences(then, json.loads(json.dumps(then))) == []
    assert max(map(len, differences({"a": "b" * 500}, {"a": ["b"] * 500}))) < 150
