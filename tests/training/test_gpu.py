"""Runs on a GPU: two processes on it as one, the same bits twice, chunks that need less memory.

pytest -m gpu tests/training/test_gpu.py
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from forked import free_port
from runs import TINY, tiny

import effssl

pytestmark = pytest.mark.gpu

ON_GPU = {"cpu": False, "max_steps": 4, "evaluate_every": 0}

# NCCL refuses two processes on one GPU, so the group is made before Accelerate would make it
RUN = """
import json, os, sys
import torch.distributed
if "WORLD_SIZE" in os.environ:
    torch.distributed.init_process_group("gloo")
import effssl
effssl.pretrain(effssl.PretrainConfig(**json.loads(sys.argv[1])))
"""


def weights(folder):
    model = effssl.from_pretrained(folder)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(config, processes):
    """Run a configuration on the first GPU, in new processes and in whole float32."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_TF32_OVERRIDE": "0"}
    if processes > 1:
        environment |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "LOCAL_RANK": "0",
        }
        environment |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(config)],
            env=environment | ({"RANK": str(rank)} if processes > 1 else {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-3), ("fp64", 1e-6)])
def test_two_processes_on_one_gpu_train_as_one_does(tmp_path, precision, tolerance):
    # not AdamW, whose first steps are the sign of the gradient, rounding noise included
    config = TINY | ON_GPU | {"epochs": 2, "batch_size": 20, "optimizer": "sgd", "lr": 1e-4}
    found = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        train(config | {"precision": precision, "output": str(output)}, processes)
        training = json.loads((output / "model" / "training.json").read_text())
        assert training["processes"] == processes and training["step"] == 4
        found.append(weights(output / "model"))
    one, two = found
    assert (one - two).norm() < tolerance * one.norm()


def test_a_deterministic_run_gives_the_same_bits_twice(tmp_path):
    files = []
    for name in ("first", "second"):
        folder = effssl.pretrain(tiny(tmp_path / name, deterministic=True, **ON_GPU))
        files.append([(folder / f).read_bytes() for f in ("model.safetensors",)])
        files[-1].append((folder / "projector.safetensors").read_bytes())
    torch.use_deterministic_algorithms(False)
    assert files[0] == files[1]


def test_chunks_need_less_memory_than_the_whole_batch(tmp_path):
    peaks = {}
    for micro_batch in (None, 32):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        changes = {"split": "train[:512]", "batch_size": 256, "max_steps": 2}
        config = ON_GPU | changes | {"backbone": "resnet18_cifar", "micro_batch": micro_batch}
        effssl.pretrain(tiny(tmp_path / str(micro_batch), **config))
        peaks[micro_batch] = torch.cuda.max_memory_allocated()
    assert peaks[32] < 0.6 * peaks[None], peaks
