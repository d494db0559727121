"""Checkpoints: as many as asked for, and a torn one is always known."""

import random

import pytest
import torch
from runs import assert_equal, assert_nothing_partial, steps_of_checkpoints, truncate

from effssl.training._checkpoint import load_checkpoint, save_checkpoint


def small_state():
    draw = torch.Generator().manual_seed(0)
    return {"model": {"a": torch.randn(1000, generator=draw), "b": torch.arange(10)}, "name": "x"}


def test_no_flipped_byte_of_a_checkpoint_goes_unnoticed(tmp_path):
    file = save_checkpoint(tmp_path, 5, small_state(), keep=2) / "state.pt"
    content, draw = file.read_bytes(), random.Random(0)
    for place in draw.sample(range(len(content)), 300):
        torn = bytearray(content)
        torn[place] ^= 0xFF
        file.write_bytes(torn)
        try:
            loaded = load_checkpoint(tmp_path)
        except ValueError:  # none is whole
            continue
        assert_equal(loaded, {"step": 5} | small_state(), f"byte {place}")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_are_kept_as_asked_for(tmp_path, keep):
    for step in (2, 4, 6, 7, 10):
        save_checkpoint(tmp_path, step, small_state(), keep=keep)
    assert steps_of_checkpoints(tmp_path) == [2, 4, 6, 7, 10][-keep:]
    assert_nothing_partial(tmp_path)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_torn_checkpoint_takes_no_place_of_one_that_is_kept(tmp_path, keep):
    for step in (3, 10, 12):
        save_checkpoint(tmp_path, step, small_state(), keep=3)
    for step in (10, 12):
        truncate(tmp_path / "checkpoints" / f"step_{step:08d}")
    assert load_checkpoint(tmp_path)["step"] == 3
    save_checkpoint(tmp_path, 6, small_state(), keep=keep)
    assert load_checkpoint(tmp_path)["step"] == 6
