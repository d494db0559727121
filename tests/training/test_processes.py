"""Runs of real processes: one, several, two machines, a resume with more of them, a lost one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[2] / "examples" / "pretrain.py"
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
    "knn_every": "0",
}
MEASURED = {
    "resnet18_cifar": {"img_size": "16"},
    "convnext_atto": {"img_size": "16", "patch_size": "1"},
    "mobilenetv3_small_050": {"img_size": "32"},
}
EXACT = 1e-9  # of the weights of runs in float64, relative to their norm
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


def flags(output: Path, **changes: str) -> list[str]:
    command = [str(EXAMPLE), "--cpu", "--output", str(output)]
    for name, value in (TINY | changes).items():
        command += [f"--{name.replace('_', '-')}", value]
    return command


def launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc_per_node={processes}"]


@contextmanager
def started(*commands: list[str], environments: list[dict] | None = None, threads: int = 1):
    """Processes that are gone afterwards, and those that they started with them."""
    inherited = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
    inherited["OMP_NUM_THREADS"] = str(threads)
    processes = []
    try:
        for number, command in enumerate(commands):
            more = environments[number] if environments else {}
            processes.append(
                subprocess.Popen(
                    command, env=inherited | more, stderr=subprocess.PIPE, text=True, bufsize=1
                )
            )
        yield processes
    finally:
        for process in processes:
            children = list(descendants(process.pid))
            for pid in (process.pid, *children):
                if process.poll() is None or pid != process.pid:
                    os.kill(pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process started, and those that they started."""
    for file in Path("/proc").glob(f"{pid}/task/*/children"):
        for child in map(int, file.read_text().split()):
            yield child
            yield from descendants(child)


def ended(*processes: subprocess.Popen, timeout: float = 300) -> list[tuple[int, str]]:
    """Exit codes and logs."""
    found = [(p.communicate(timeout=timeout)[1], p.returncode) for p in processes]
    return [(code, log) for log, code in found]


def final_state(run: Path) -> dict[str, torch.Tensor]:
    file = sorted(run.glob("checkpoints/step_????????"))[-1] / "state.pt"
    return torch.load(file, weights_only=True)["model"]


def train(run: Path, processes: int, threads: int = 1, **changes: str) -> dict:
    """The weights and buffers that a run ends with."""
    with started([*launcher(processes), *flags(run, **changes)], threads=threads) as launched:
        ((code, log),) = ended(*launched)
    assert code == 0, log
    return final_state(run)


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


def wait_for_lines(run: Path, lines: int, process: subprocess.Popen) -> None:
    """Wait until a run has written so many metrics."""
    file, end = run / "metrics.jsonl", time.monotonic() + 120
    while not file.exists() or file.read_text().count("\n") < lines:
        assert process.poll() is None and time.monotonic() < end, "no metrics"
        time.sleep(0.01)


def test_a_run_of_one_process_goes_on_with_two(tmp_path, of_one_process):
    run, changes = tmp_path / "run", {"log_every": "1"}
    with started([*launcher(1), *flags(run, **changes)]) as (process,):
        wait_for_lines(run, 2, process)
        process.send_signal(signal.SIGTERM)
        ((code, log),) = ended(process)
    assert code == 128 + signal.SIGTERM and "SIGTERM: stopped after step" in log, log
    step = torch.load(max(run.glob("checkpoints/*/state.pt")), weights_only=True)["step"]
    assert 2 <= step < 24
    with started([*launcher(2), *flags(run, **changes), "--resume"]) as launched:
        ((code, log),) = ended(*launched)
    assert code == 0, log
    found = difference(final_state(run), of_one_process)
    print(f"1 process for {step} steps, then 2, against 1: {found:.1e}")
    assert found <= EXACT


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as listener:
        listener.bind((address, 0))
        return listener.getsockname()[1]


def test_accelerate_launch_on_two_machines_ends_with_the_weights_of_one(tmp_path, of_one_process):
    port = free_port("127.0.0.2")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    accelerate += ["--num_machines", "2", "--num_processes", "2"]
    accelerate += ["--main_process_ip", "127.0.0.2", "--main_process_port", str(port)]
    commands = [
        [*accelerate, "--machine_rank", str(rank), *flags(tmp_path / "run")] for rank in (0, 1)
    ]
    with started(*commands, environments=2 * [{"ACCELERATE_USE_CPU": "true"}]) as machines:
        for code, log in ended(*machines):
            assert code == 0, log
    found = difference(final_state(tmp_path / "run"), of_one_process)
    print(f"2 machines against 1 process: {found:.1e}")
    assert found <= EXACT


@pytest.mark.parametrize("lost, lost_by", [(0, "SIGKILL"), (1, "SIGSTOP")])
def test_processes_end_and_name_the_one_that_is_lost(tmp_path, lost, lost_by):
    command = [sys.executable, *flags(tmp_path / "run", epochs="100000", log_every="1")]
    shared = {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    environments = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(3)]
    command += ["--timeout-minutes", "0.2"]
    with started(*3 * [command], environments=environments) as processes:
        wait_for_lines(tmp_path / "run", 1, processes[0])
        processes[lost].send_signal(getattr(signal, lost_by))
        others = [rank for rank in range(3) if rank != lost]
        found = ended(*(processes[rank] for rank in others), timeout=120)
    for rank, (code, log) in zip(others, found, strict=True):
        assert code == 2, log
        line = f"process {rank} of 3 lost the others; no sign of life from process: {lost};"
        assert log.count("effssl: error:") == log.count(line) == 1, log


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
