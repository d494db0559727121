"""Launchers and devices: sharding plugins are refused, determinism and compilation are obeyed.

pytest -m slow tests/training/test_launch.py
"""

import json
import os
import sys

import pytest
import torch
from runs import launch, metrics, tiny

import effssl
from effssl.training import _launch as launch_module
from effssl.training._launch import explain_determinism


@pytest.mark.parametrize("plugin", ["FSDP", "DEEPSPEED", "MEGATRON_LM"])
@pytest.mark.parametrize("value", ["true", "1"])
def test_an_active_sharding_plugin_is_an_error_before_anything_is_written(
    tmp_path, monkeypatch, plugin, value
):
    monkeypatch.setenv(f"ACCELERATE_USE_{plugin}", value)
    with pytest.raises(ValueError, match=f"the launcher asks for {plugin}.*launch without it"):
        effssl.pretrain(tiny(tmp_path))
    assert not (tmp_path / "run").exists()


def test_a_plugin_that_is_switched_off_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    effssl.pretrain(tiny(tmp_path, max_steps=1, evaluate_every=0))


@pytest.mark.slow
def test_accelerate_launch_with_fsdp_ends_with_one_line(tmp_path):
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    result = launch(tmp_path, launcher=[*launcher, "--use_fsdp", "--num_processes", "1"])
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("effssl: error:")]
    assert "asks for FSDP" in line and "launch without it" in line
    assert not (tmp_path / "run").exists()


@pytest.fixture
def torch_settings(monkeypatch):
    """Put back what a run sets for its process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "as it was")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


def test_determinism_is_of_the_run_that_asked_for_it(tmp_path, torch_settings):
    short = {"max_steps": 1, "evaluate_every": 0}
    effssl.pretrain(tiny(tmp_path / "a", deterministic=True, **short))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    effssl.pretrain(tiny(tmp_path / "b", **short))
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    names = ("model.safetensors", "projector.safetensors")
    a, b = ([(tmp_path / r / "run/model" / n).read_bytes() for n in names] for r in "ab")
    assert a == b  # a CPU has no other operations


@pytest.mark.slow
def test_a_compiled_backbone_trains_as_the_plain_one(tmp_path):
    """pytest -m slow tests/training/test_launch.py"""
    for name, compiled in [("plain", False), ("compiled", True)]:
        # fp64: AdamW's first step is the sign of the gradient, rounding noise included
        flags = ["--log-every", "1", "--precision", "fp64"]
        flags += ["--compile"] if compiled else []
        result = launch(tmp_path / name, *flags, launcher=[sys.executable])
        assert result.returncode == 0, result.stderr
    plain, compiled = (metrics(tmp_path / name / "run") for name in ("plain", "compiled"))
    assert len(plain) == 3
    assert [a["loss"] for a in compiled] == pytest.approx([a["loss"] for a in plain], rel=1e-4)
    model = effssl.from_pretrained(tmp_path / "compiled" / "run" / "model")
    assert model(torch.rand(2, 1, 32, 32)).isfinite().all()
    training = json.loads((tmp_path / "compiled" / "run" / "model" / "training.json").read_text())
    assert training["config"]["compile"]


def test_an_operation_that_cannot_be_deterministic_is_an_error_that_says_what_to_do(torch_settings):
    torch.use_deterministic_algorithms(True)
    with (
        pytest.raises(ValueError, match="backbone 'b16'.*no deterministic put_; leave"),
        explain_determinism("b16"),
    ):
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))


def test_other_errors_of_a_deterministic_run_stay_as_they_are(torch_settings):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), explain_determinism("a"):
        torch.zeros(3, 2) @ torch.zeros(3, 2)


def test_a_process_without_launcher_asks_for_no_process_group_on_a_gpu(tmp_path, monkeypatch):
    """pytest tests/training/test_on_cuda.py trains whole; here is what the launcher decides."""
    given = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated=True: True)

    class Stopped(Exception):
        pass

    def accelerator(*, kwargs_handlers, **options):
        given["backend"] = kwargs_handlers[0].to_kwargs().get("backend")
        raise Stopped

    monkeypatch.setattr(launch_module, "Accelerator", accelerator)
    for rank, backend in ((None, None), ("-1", None), ("0", "cuda:nccl,cpu:gloo")):
        if rank is None:
            monkeypatch.delenv("LOCAL_RANK", raising=False)
        else:
            monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(Stopped):
            launch_module.create_accelerator(tiny(tmp_path, cpu=False))
        assert given["backend"] == backend
