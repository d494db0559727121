"""Runs of real processes: one, several, two machines, a resume with more of them, a lost one."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from forked import free_port, launch, results
from runs import lines, until

from effssl import cli
from effssl.local import PACKAGED
from effssl.training._checkpoint import load_checkpoint

TINY = {
    "backbone": "test_resnet",  # has batch norm
    "in_chans": "1",
    "img_size": "32",
    "preset": "grey",
    "projector_dim": "32",
    "views": "4",
    "batch_size": "8",
    "split": "train[:96]",
    "precision": "fp64",
    "epochs": "2",
    "evaluate_every": "0",
}
MEASURED = {
    "resnet18_cifar": {"img_size": "16"},
    "convnext_atto": {"img_size": "16", "patch_size": "1"},
    "mobilenetv3_small_050": {"img_size": "32"},
}
COMMAND = ("-m", "effssl.cli", "pretrain")  # as a launcher takes it, wherever it is started
(MODEL,) = PACKAGED
EXACT = 1e-9  # of the weights of runs in float64, relative to their norm


def flags(output: Path, **changes: str) -> list[str]:
    found = ["--cpu", "--output", str(output)]
    for name, value in (TINY | changes).items():
        found += [f"--{name.replace('_', '-')}", value]
    return found


def pretrain(arguments: list[str], threads: int = 1) -> None:
    torch.set_num_threads(threads)
    cli.main(["pretrain", *arguments])


@contextmanager
def started(run: Path, processes: int, *arguments: str, threads: int = 1, **changes: str):
    """The processes of a run, which are gone afterwards."""
    logs = run.with_name(f"{run.name}-logs-of-{processes}")
    forks = launch(logs, processes, pretrain, [*flags(run, **changes), *arguments], threads)
    try:
        yield forks
    finally:
        for fork in forks:
            fork.process.kill()


def train(run: Path, processes: int, *arguments: str, threads: int = 1, **changes: str) -> dict:
    """The weights and buffers that a run ends with."""
    with started(run, processes, *arguments, threads=threads, **changes) as forks:
        results(forks)
    return load_checkpoint(run)["model"]


def difference(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Relative norm of the difference of all parameters and running statistics together."""
    assert state.keys() == expected.keys()
    a, b = (
        torch.cat([v.flatten().double() for v in values.values() if v.is_floating_point()])
        for values in (state, {name: expected[name] for name in state})
    )
    counters = [k for k, v in state.items() if not v.is_floating_point()]
    assert all(torch.equal(state[k], expected[k]) for k in counters)
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory):
    return train(tmp_path_factory.mktemp("one") / "run", 1)


def test_two_processes_end_with_the_weights_of_one(tmp_path, of_one_process):
    found = difference(train(tmp_path / "run", 2), of_one_process)
    print(f"2 processes against 1, 24 steps: {found:.1e}")
    assert found <= EXACT


def test_processes_end_with_the_weights_of_one_in_chunks_too(tmp_path):
    alone, together = (
        train(tmp_path / str(processes), processes, micro_batch="4", max_steps="6")
        for processes in (1, 3)  # of which one has two images of a chunk, the others one
    )
    found = difference(together, alone)
    print(f"3 processes against 1 in chunks, 6 steps: {found:.1e}")
    assert found <= EXACT


@pytest.mark.parametrize(
    "changes",
    [
        {"init": MODEL, "backbone": "None", "projector_dim": "256"},
        {"layer_decay": "0.7", "projector_layers": "3", "projector_hidden": "16"},
        {"micro_batch": "4"},
    ],
    ids=["weights", "batch norm", "chunks"],
)
def test_processes_agree_when_a_backbone_is_frozen_and_then_computed_again(tmp_path, changes):
    alone, together = (
        train(
            tmp_path / str(processes),
            processes,
            "--grad-checkpointing",
            freeze_epochs="1",
            max_steps="16",  # of which 12 are frozen
            **changes,
        )
        for processes in (1, 2)
    )
    found = difference(together, alone)
    print(f"2 processes against 1, 12 frozen steps and 4: {found:.1e}")
    assert found <= EXACT


def test_a_run_of_one_process_goes_on_with_two(tmp_path, of_one_process):
    run = tmp_path / "run"
    with started(run, 1, log_every="1") as (process,):
        until(lambda: lines(run) >= 2, process.alive)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 128 + signal.SIGTERM, process.log()
    assert "SIGTERM: stopped after step" in process.log()
    step = load_checkpoint(run)["step"]
    assert 2 <= step < 24
    found = difference(train(run, 2, "--resume", log_every="1"), of_one_process)
    print(f"1 process for {step} steps, then 2, against 1: {found:.1e}")
    assert found <= EXACT


@pytest.mark.slow
def test_accelerate_launch_on_two_machines_ends_with_the_weights_of_one(tmp_path, of_one_process):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    accelerate += ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.2"]
    accelerate += ["--main_process_port", str(free_port("127.0.0.2"))]
    machines = [
        subprocess.Popen(
            [*accelerate, "--machine_rank", str(rank), *COMMAND, *flags(tmp_path / "run")],
            cwd=tmp_path,
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for machine in machines:
        _, log = machine.communicate(timeout=300)
        assert machine.returncode == 0, log
    found = difference(load_checkpoint(tmp_path / "run")["model"], of_one_process)
    print(f"2 machines against 1 process: {found:.1e}")
    assert found <= EXACT


@pytest.mark.slow
def test_torchrun_of_the_command_ends_with_the_weights_of_one(tmp_path, of_one_process):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*launcher, "--nproc_per_node", "2", *COMMAND, *flags(tmp_path / "run")],
        cwd=tmp_path,  # where no clone is
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("model folder: ") == 1
    found = difference(load_checkpoint(tmp_path / "run")["model"], of_one_process)
    print(f"torchrun with 2 processes against 1 process: {found:.1e}")
    assert found <= EXACT


@pytest.mark.parametrize(
    "lost, lost_by", [(0, "SIGKILL"), pytest.param(1, "SIGSTOP", marks=pytest.mark.slow)]
)
def test_processes_end_and_name_the_one_that_is_lost(tmp_path, lost, lost_by):
    run, changes = tmp_path / "run", {"epochs": "100000", "log_every": "1"}
    with started(run, 3, timeout_minutes="0.2", **changes) as processes:
        until(lambda: lines(run) >= 1, processes[0].alive)
        processes[lost].send_signal(getattr(signal, lost_by))
        for rank in {0, 1, 2} - {lost}:
            process = processes[rank]
            assert process.wait(timeout=120) == 2, process.log()
            line = f"process {rank} of 3 lost the others; no sign of life from process: {lost};"
            assert process.log().count("effssl: error:") == 1, process.log()
            assert line in process.log()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", MEASURED)
def test_any_number_of_processes_ends_with_the_same_weights(tmp_path, backbone):
    """pytest -m slow -s -k any_number_of_processes tests/training/test_processes.py"""
    changes = {"backbone": backbone, "max_steps": "20"} | MEASURED[backbone]
    runs = {w: train(tmp_path / str(w), w, **changes) for w in (1, 2, 4)}
    found = {w: difference(runs[w], runs[1]) for w in (2, 4)}
    print(f"{backbone}, fp64, 20 steps: " + ", ".join(f"{w}: {d:.1e}" for w, d in found.items()))
    assert max(found.values()) <= EXACT


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18_cifar", "convnext_atto"])
def test_in_float32_processes_differ_no_more_than_threads(tmp_path, backbone):
    """pytest -m slow -s -k than_threads tests/training/test_processes.py"""
    changes = {"backbone": backbone, "max_steps": "20", "precision": "fp32"} | MEASURED[backbone]
    alone = train(tmp_path / "alone", 1, **changes)
    threads = difference(train(tmp_path / "threads", 1, threads=2, **changes), alone)
    found = {w: difference(train(tmp_path / str(w), w, **changes), alone) for w in (2, 4)}
    print(
        f"{backbone}, fp32, 20 steps: 2 threads: {threads:.1e}; processes "
        + ", ".join(f"{w}: {d:.1e}" for w, d in found.items())
    )
    assert threads > 0 and max(found.values()) <= 3 * threads
