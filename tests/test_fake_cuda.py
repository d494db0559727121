"""FakeCuda catches what a real GPU would; each test plants a fault, or its correct form."""

import pytest
import torch
from fake_cuda import FakeCuda
from fake_machine import one_of, pretend
from torch import nn


@pytest.fixture
def gpu():
    with FakeCuda() as fake, pretend(fake):
        yield fake


def on_gpu(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="cuda")


def test_a_cpu_tensor_in_an_expression_on_the_gpu_is_an_error(gpu):
    with pytest.raises(RuntimeError, match="device"):
        on_gpu(3) + torch.ones(3)
    assert (on_gpu(3) + torch.tensor(1.0)).device.type == "cuda"  # a scalar is allowed


def test_a_cpu_tensor_indexed_from_the_gpu_is_an_error(gpu):
    with pytest.raises(RuntimeError, match="indexed"):
        torch.ones(3)[on_gpu(2, dtype=torch.int64)]


def test_a_cpu_generator_for_a_draw_on_the_gpu_is_an_error(gpu):
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.cpu(),
        lambda x: x.to("cpu"),
        lambda x: torch.empty(3).copy_(x),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.cuda.current_stream().record_event().synchronize(),
    ],
)
def test_every_read_of_the_gpu_is_one_wait(gpu, read):
    x = on_gpu(3)
    with gpu.measured() as cost:
        read(x)
    assert len(cost.waits) == 1 and "test_fake_cuda.py" in cost.waits[0]


def test_a_read_that_does_not_block_waits_where_its_event_does(gpu):
    x = on_gpu(3)
    with gpu.measured() as cost:
        values = x.to("cpu", non_blocking=True)
        torch.empty(3, pin_memory=True).copy_(x, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
    assert not cost.waits and values.is_pinned()
    event.synchronize()
    assert gpu.cost.waits[0].startswith("synchronize")


@pytest.mark.parametrize(
    "copy, blocks",
    [
        (lambda x: x.to("cuda"), True),
        (lambda x: x.to("cuda", non_blocking=True), True),  # from memory that is not pinned
        (lambda x: x.pin_memory().to("cuda"), True),
        (lambda x: x.pin_memory().to("cuda", non_blocking=True), False),
        (lambda x: x.pin_memory().to("cuda", torch.float64, non_blocking=True), True),
        (lambda x: x.pin_memory().t().to("cuda", non_blocking=True), True),
        (lambda x: on_gpu(4, 2).copy_(x), True),
        (lambda x: on_gpu(4, 2).copy_(x.pin_memory(), non_blocking=True), False),
        (lambda x: torch.tensor([1.0, 2.0], device="cuda"), True),
        (lambda x: on_gpu(4)[torch.tensor([1, 2])], True),
    ],
)
def test_a_copy_blocks_unless_it_is_asked_not_to_and_its_memory_is_pinned(gpu, copy, blocks):
    copy(torch.ones(4, 2))
    (found,) = gpu.cost.copies
    assert found.blocking == blocks and bool(gpu.cost.blocking) == blocks
    assert not gpu.cost.waits


def test_pinned_memory_is_remembered_as_long_as_it_lives(gpu):
    batch = torch.empty(100, dtype=torch.uint8, pin_memory=True)
    assert batch.is_pinned() and batch[10:].is_pinned() and not torch.empty(100).is_pinned()
    del batch
    assert not gpu._pinned


def test_float64_is_an_error_on_a_device_without_it():
    with FakeCuda(float64=False) as gpu, pretend(gpu):
        x = on_gpu(3)
        assert torch.ones(3, dtype=torch.float64).to("cuda", torch.float32).dtype == torch.float32
        with pytest.raises(TypeError, match="float64"):
            x.double()


def test_kernels_and_bytes_are_those_of_the_operands(gpu):
    a, b = on_gpu(1000), on_gpu(1000)
    with gpu.measured() as cost:
        a + b
        a.mul_(2)
        a.view(10, 100).t()
        on_gpu(10, 1).expand(10, 1000).neg()
        a[torch.arange(5, device="cuda")]
    names = [launch.name for launch in cost.launches]
    assert names == ["add", "mul_", "neg", "arange", "index"]
    assert [launch.bytes for launch in cost.launches] == [12000, 8000, 40040, 40, 80]


def test_a_tensor_that_is_there_is_not_copied_again(gpu):
    x = on_gpu(3)
    with gpu.measured() as cost:
        assert x.to("cuda") is x and x.to(on_gpu(1)) is x and x.to(x.device, torch.float32) is x
        assert x.to("cuda", copy=True) is not x and x.to("cuda", torch.float64) is not x
    assert cost.kernels == 2


def test_a_norm_of_many_tensors_is_one_kernel_for_all(gpu):
    tensors = [on_gpu(3) for _ in range(20)]
    with gpu.measured() as cost:
        nn.utils.get_total_norm(tensors)
    assert cost.kernels <= 3


def test_products_count_their_operations_in_their_type(gpu):
    net = nn.Linear(64, 32, bias=False).to("cuda")
    with gpu.measured() as cost, torch.autocast("cuda", torch.bfloat16):
        out = net(on_gpu(8, 64))
    assert out.dtype == torch.bfloat16
    assert cost.flops == 2 * 8 * 64 * 32
    assert {launch.dtype for launch in cost.launches if launch.flops} == {torch.bfloat16}


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def test_autocast_applies_as_on_a_gpu(gpu):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(5))
    net(torch.ones(2, 3, 8, 8))
    net.to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        images = Double.apply(on_gpu(2, 3, 8, 8)).requires_grad_()
        features = net[:3](images)
        out = Double.apply(net[3](Double.apply(features)))
        assert features.dtype == out.dtype == torch.bfloat16
        loss = nn.functional.layer_norm(out, (5,)).sum()
        assert loss.dtype == torch.float32
    loss.backward()
    products = [launch for launch in gpu.cost.launches if launch.flops]
    assert len(products) == 5 and {launch.dtype for launch in products} == {torch.bfloat16}
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_a_custom_operation_is_one_kernel(gpu):
    @torch.library.custom_op("effssl_tests::halve", mutates_args=())
    def halve(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("there is nothing to run it on")

    @halve.register_fake
    def _(x):
        return x.new_empty(len(x) // 2)

    x = on_gpu(100)
    with gpu.measured() as cost:
        assert halve(x).shape == (50,)
    (launch,) = cost.launches
    assert (launch.name, launch.bytes) == ("halve", 600)


def test_a_compiled_function_is_one_kernel(gpu):
    @torch.compile
    def chain(x):
        return (x * 2 + 1).relu()

    x = on_gpu(100)
    with gpu.measured() as cost:
        chain(x)
    (launch,) = cost.launches
    assert (launch.name, launch.bytes) == ("chain", 800)


def prefetched(wait=True, record=True):
    """Copy a batch on its own stream and use it on the main one."""
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    with torch.cuda.stream(side):
        batch = torch.ones(4).pin_memory().to("cuda", non_blocking=True)
    if wait:
        main.wait_stream(side)
    if record:
        batch.record_stream(main)
    return batch + 1


def test_work_on_two_streams_in_order_is_no_error(gpu):
    prefetched()
    assert not gpu.hazards and not gpu.cost.waits


def test_use_of_what_another_stream_has_not_written_yet_is_an_error(gpu):
    with pytest.raises(RuntimeError, match="may not have written yet"):
        prefetched(wait=False)


def test_memory_given_away_while_another_stream_uses_it_is_an_error():
    with pytest.raises(RuntimeError, match="its memory is given away"):
        with FakeCuda() as gpu, pretend(gpu):
            prefetched(record=False)


def test_a_gradient_is_summed_over_a_world_of_fake_processes(gpu):
    with one_of(8, rank=3):
        net = nn.parallel.DistributedDataParallel(nn.Linear(4, 4).to("cuda"), device_ids=[0])
        # Accelerate would
        from accelerate.utils import DistributedDataParallelKwargs

        DistributedDataParallelKwargs().register_comm_hook(net)
        assert torch.distributed.get_world_size() == 8 and torch.distributed.get_rank() == 3
        for _ in range(3):
            with gpu.measured() as cost:
                net(on_gpu(2, 4)).sum().backward()
        assert [launch.name for launch in cost.launches].count("allreduce_") == 1
        x = torch.tensor([5])
        torch.distributed.all_reduce(x)
        assert x.tolist() == [5]  # on the CPU too
