"""Losses on CUDA tensors without data: launches, memory, and how often the host waits."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from fake_cuda import FakeCuda
from fake_machine import pretend

from effssl.distributed import rows_known
from effssl.losses import barlow_twins, coding_rate, sigreg, simclr, spectral, vicreg, wmse
from effssl.losses._tf32 import tf32_products


def barlow_twins_mean(z):
    return barlow_twins(z, multiview="mean")


LOSSES = [barlow_twins, barlow_twins_mean, vicreg, spectral]
MORE = [(simclr, 64), (sigreg, 64), (coding_rate, 64), (coding_rate, 2048), (wmse, 64)]


@pytest.fixture
def eight_ranks():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    yield
    dist.destroy_process_group()


def run(loss, shape: tuple[int, ...], counts: list[int] | None = None, dtype=torch.float32):
    """Value and gradient in a mode that counts."""
    with FakeCuda() as gpu:
        z = torch.empty(shape, dtype=dtype, device="cuda", requires_grad=True)
        with nullcontext() if counts is None else rows_known(counts):
            value, parts = loss(z, return_parts=True)
        value.backward()
        assert value.dtype == torch.float32 and z.grad.dtype == dtype
    return gpu


@pytest.mark.parametrize("loss", [barlow_twins, vicreg, spectral])
@pytest.mark.parametrize("dim", [64, 2048])  # direct and Gram
@pytest.mark.parametrize("images", [64, 0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_ranks_with_known_counts_never_wait(eight_ranks, loss, dim, images, dtype):
    counts = [64, 64, 64, images, 64, 64, 64, 0]
    gpu = run(loss, (4, images, dim), counts, dtype)
    assert not gpu.cost.waits and not gpu.cost.blocking


def test_ranks_that_do_not_know_the_counts_wait_once(eight_ranks):
    gpu = run(vicreg, (4, 1, 128))  # 1 is what the mode answers
    assert {place.split(":")[0] for place in gpu.cost.waits} == {"tolist distributed.py"}


@pytest.mark.parametrize("loss", [barlow_twins, vicreg, spectral])
def test_one_process_never_waits(loss):
    gpu = run(loss, (4, 64, 128))
    assert not gpu.cost.waits and not gpu.cost.blocking


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
@pytest.mark.parametrize("images, dim", [(4096, 8192), (4096, 256)])
def test_large_batches_take_few_launches_and_bounded_temporaries(loss, images, dim):
    gpu = run(loss, (8, images, dim))
    assert gpu.cost.kernels <= 300
    size = 4 * 8 * images * dim
    grams = 4 * 8 * images * images if dim > images else 4 * 28 * dim * dim
    assert gpu.peak <= 4 * size + 2 * grams + 2**29


class Precisions(FakeCuda):
    """Notes the precision in which matrices are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("mm", "bmm", "addmm_"):
            self.seen.append(precision())
        return super().__torch_dispatch__(func, types, args, kwargs)


def precision() -> str:
    return "tf32" if torch.get_float32_matmul_precision() == "high" else "float32"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("images, dim", [(64, 16), (16, 64)])
@pytest.mark.parametrize(
    "dtype, expected",
    [(torch.bfloat16, "tf32"), (torch.float16, "tf32"), (torch.float32, "float32")],
)
def test_products_are_in_tf32_where_projections_are_of_half_precision(
    loss, images, dim, dtype, expected
):
    with Precisions() as mode:
        z = torch.empty(3, images, dim, dtype=dtype, device="cuda", requires_grad=True)
        loss(z).backward()
    assert len(mode.seen) >= 2 and set(mode.seen) == {expected}
    assert precision() == "float32"


def test_what_torch_was_told_is_kept():
    torch.set_float32_matmul_precision("high")
    try:
        with tf32_products(True, torch.device("cuda")):
            assert precision() == "tf32"
        assert precision() == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")
    with pytest.raises(RuntimeError, match="of a product"):
        with tf32_products(True, torch.device("cuda")):
            raise RuntimeError("of a product")
    assert precision() == "float32"


def run_on_a_machine(loss, shape: tuple[int, ...], counts: list[int] | None = None):
    """Value and gradient on a GPU that torch asks about, as a broadcast does."""
    with FakeCuda() as gpu, pretend(gpu):
        z = torch.empty(shape, device="cuda", requires_grad=True)
        with nullcontext() if counts is None else rows_known(counts):
            loss(z).backward()
    return gpu


@pytest.mark.parametrize("loss, dim", MORE)
@pytest.mark.parametrize("images", [64, 0])
def test_eight_ranks_with_a_newer_loss_never_wait(eight_ranks, loss, dim, images):
    gpu = run_on_a_machine(loss, (4, images, dim), [64, 64, 64, images, 64, 64, 64, 0])
    assert not gpu.cost.waits and not gpu.cost.blocking


@pytest.mark.parametrize("loss, dim", MORE)
def test_one_process_with_a_newer_loss_never_waits(loss, dim):
    gpu = run_on_a_machine(loss, (4, 128, dim))
    assert not gpu.cost.waits and not gpu.cost.blocking
