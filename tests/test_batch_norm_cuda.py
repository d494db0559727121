"""Batch norm over processes on CUDA: few launches, no waits, and the values of the CPU."""

import warnings

import cuda_batch_norm
import pytest
import test_batch_norm
import torch
import torch.distributed as dist
from fake_cuda import FakeCuda
from forked import launch, results
from torch import nn

from effssl import batch_norm
from effssl.batch_norm import make_global
from effssl.chunk_statistics import ChunkStatistics

CASES = [name for name in test_batch_norm.CASES if "bfloat16" not in name] + ["bfloat16"]


@pytest.fixture
def eight_ranks():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    yield
    dist.destroy_process_group()


def on_cuda(module: nn.Module) -> nn.Module:
    """`Module.to` cannot put tensors without data into real parameters."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.data.to("cuda"))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to("cuda")
    return module


def step(gpu: FakeCuda, norm: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """Launches forward and backward."""
    with gpu.measured() as forward:
        y = norm(x)
    with gpu.measured() as backward:
        y.backward(torch.empty_like(y))
    assert y.dtype == x.dtype == x.grad.dtype
    assert y.stride() == x.stride() == x.grad.stride()
    assert not (forward.waits + backward.waits + forward.copies + backward.copies)
    return {"forward": forward.kernels, "backward": backward.kernels}


@pytest.mark.parametrize("images", [16, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_eight_ranks_never_wait_for_the_device(eight_ranks, images, dtype, momentum):
    cuda_batch_norm.install()
    with FakeCuda() as gpu:
        norm = on_cuda(make_global(nn.BatchNorm2d(64, momentum=momentum)))
        x = torch.empty(images, 64, 7, 7, dtype=dtype, device="cuda")
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        launches = step(gpu, norm, x)
        print(launches)
        if images and momentum:
            assert launches["forward"] <= 25 and launches["backward"] <= 6
        assert norm.running_mean.dtype == norm.weight.grad.dtype == torch.float32


def test_no_copy_of_the_input_is_made_in_float32(eight_ranks):
    cuda_batch_norm.install()
    with FakeCuda() as gpu:
        norm = on_cuda(make_global(nn.BatchNorm2d(64)))
        x = torch.empty(16, 64, 32, 32, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        size = x.numel() * x.element_size()
        with gpu.measured() as forward:
            y = norm(x)
        assert gpu.peak <= 2.1 * size  # the input and the output
        assert forward.bytes <= 3.1 * size  # read twice, written once
        grad = torch.empty_like(y)
        with gpu.measured() as backward:
            y.backward(grad)
        assert backward.bytes <= 5.1 * size  # both read twice, one written


@pytest.mark.parametrize("images", [1, 0])
def test_every_rank_sends_the_same_kinds_of_tensors(eight_ranks, images, monkeypatch):
    """A rank without images sends what the others do, in half precision too."""
    cuda_batch_norm.install()
    sent = []
    for name in ("all_gather_single", "all_gather_into_tensor", "all_reduce"):
        if hasattr(dist, name):
            monkeypatch.setattr(dist, name, lambda *x: sent.append((x[-1].dtype, x[-1].shape)))
    with FakeCuda() as gpu:
        norm = on_cuda(make_global(nn.BatchNorm2d(5)))
        x = torch.empty(images, 5, 7, 7, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        step(gpu, norm, x)
    assert sent == [(torch.float32, (11,)), (torch.float32, (2, 5))]


def test_chunks_take_a_handful_of_launches_whatever_the_number_of_norms():
    with FakeCuda() as gpu:
        launches = []
        for norms in (4, 40):
            model = on_cuda(nn.Sequential(*(nn.BatchNorm1d(8) for _ in range(norms))))
            with gpu.measured() as cost, ChunkStatistics(model).one_update() as statistics:
                for chunk in range(3):
                    statistics.weigh(chunk)
                statistics.weigh(None)
            launches.append(cost.kernels)
            assert not cost.waits and not cost.copies
        assert launches[0] == launches[1] <= 40


def compare_by_kernels_of_cuda() -> dict[str, dict]:
    """What one process of a launch finds with the code for CUDA."""
    warnings.simplefilter("error")
    cuda_batch_norm.install()
    batch_norm._has_kernels = lambda x: True
    dist.init_process_group("gloo")
    counts, rank = test_batch_norm.SPLITS[dist.get_world_size()], dist.get_rank()
    found = {
        name: test_batch_norm.compare(test_batch_norm.CASES[name], counts, rank) for name in CASES
    }
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("batch_norm_cuda")
    return results(launch(folder, 3, compare_by_kernels_of_cuda))


@pytest.mark.parametrize("name", CASES)
def test_the_code_for_cuda_computes_batch_norm_of_the_whole_batch(found, name):
    for of_rank in found:
        case = of_rank[name]
        assert case.pop("dtype") and case.pop("format", True), case
        assert max(case.values()) <= test_batch_norm.CASES[name].tolerance, case
