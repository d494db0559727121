"""Losses and sums on real processes: value and gradient are those of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from effssl.distributed import all_reduce_sum

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "4", str(SCRIPT), str(folder)]
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_losses_on_uneven_skewed_processes_equal_those_of_one_process(found, processes):
    for rank in range(processes):
        results = json.loads((found / f"{processes}_{rank}.json").read_text())["results"]
        assert len(results) == 4 * 3 * 2  # losses, views with a split, widths with a form
        for case in results:
            assert case["value"] <= 1e-10, case
            assert case["gradient"] <= 1e-10, case
            assert case["cosine"] >= 1 - 1e-12, case


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_all_reduce_sum_sums_in_both_directions(found, processes):
    for rank in range(processes):
        sums = json.loads((found / f"{processes}_{rank}.json").read_text())["sums"]
        assert sums["forward"] == [sum(range(1, processes + 1))] * 2
        # the gradients on each process are 1 and its rank
        assert sums["backward"] == [processes, sum(range(processes))]


def test_all_reduce_sum_without_processes_is_the_identity():
    x = torch.ones(3, requires_grad=True)
    assert all_reduce_sum(x) is x
