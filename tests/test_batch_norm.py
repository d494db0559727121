"""Batch norm over processes is batch norm of the whole batch; chunks of a batch count once."""

import copy
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import timm
import torch
import torch.distributed as dist
from forked import launch, results
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from effssl.batch_norm import make_global
from effssl.chunk_statistics import ChunkStatistics

EXACT, SINGLE, HALF = 1e-12, 1e-5, 2e-2
SPLITS = {2: [5, 3], 3: [0, 7, 1]}  # rows of each process


class Case(NamedTuple):
    norm: Callable[..., nn.Module]
    places: tuple[int, ...] = ()
    options: dict = {}
    dtype: torch.dtype = torch.float64
    tolerance: float = EXACT
    offset: float = 0.5
    channels_last: bool = False
    evaluating: bool = False


CASES = {
    "1d": Case(nn.BatchNorm1d),
    "1d of sequences": Case(nn.BatchNorm1d, (7,)),
    "2d": Case(nn.BatchNorm2d, (3, 4)),
    "2d of one place": Case(nn.BatchNorm2d, (1, 1)),
    "2d channels last": Case(nn.BatchNorm2d, (3, 4), channels_last=True),
    "3d": Case(nn.BatchNorm3d, (2, 3, 4)),
    "with relu": Case(BatchNormAct2d, (3, 4)),
    "with silu, channels last": Case(
        BatchNormAct2d, (3, 4), {"act_layer": nn.SiLU}, channels_last=True
    ),
    "without its activation": Case(BatchNormAct2d, (3, 4), {"apply_act": False}),
    "without weights": Case(nn.BatchNorm2d, (3, 4), {"affine": False}),
    "cumulative": Case(nn.BatchNorm2d, (3, 4), {"momentum": None}),
    "untracked": Case(nn.BatchNorm2d, (3, 4), {"track_running_stats": False}),
    "evaluating untracked": Case(
        nn.BatchNorm2d, (3, 4), {"track_running_stats": False}, evaluating=True
    ),
    "evaluating": Case(nn.BatchNorm2d, (3, 4), evaluating=True),
    "evaluating with relu": Case(BatchNormAct2d, (3, 4), evaluating=True),
    "float32": Case(nn.BatchNorm2d, (3, 4), dtype=torch.float32, tolerance=SINGLE),
    "float32 far from zero": Case(
        nn.BatchNorm1d, dtype=torch.float32, tolerance=1e-4, offset=300.0
    ),
    "bfloat16": Case(nn.BatchNorm2d, (3, 4), dtype=torch.bfloat16, tolerance=HALF),
    "bfloat16 channels last": Case(
        nn.BatchNorm2d, (3, 4), dtype=torch.bfloat16, tolerance=HALF, channels_last=True
    ),
}
CHANNELS = 5


def relative(x: Tensor, expected: Tensor) -> float:
    x, expected = x.detach().double(), expected.detach().double()
    return float((x - expected).norm() / expected.norm().clamp(min=1e-30))


def loss_of(y: Tensor, target: Tensor) -> Tensor:
    return ((y.to(target.dtype) - target) ** 2).sum()


def shard_of(x: Tensor, counts: list[int], rank: int) -> Tensor:
    return x.split(counts)[rank]


def compare(case: Case, counts: list[int], rank: int) -> dict[str, float | bool]:
    """This process's part of two training steps against those of the whole batch in float64."""
    torch.manual_seed(1)
    whole = case.norm(CHANNELS, **case.options).double()
    for tensor in [*whole.parameters(), *whole.buffers()]:
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    whole.train(not case.evaluating)
    part = make_global(copy.deepcopy(whole))
    part.to(torch.float64 if case.dtype == torch.float64 else torch.float32)
    scales = torch.linspace(0.5, 3, sum(counts), dtype=torch.float64)
    found: dict[str, float | bool] = {}
    for step in range(2):
        x = torch.randn(sum(counts), CHANNELS, *case.places, dtype=torch.float64)
        # rows, and so processes, differ in mean and scale
        x = x * scales.view(-1, *[1] * (x.ndim - 1)) + case.offset
        x = x.to(case.dtype)
        target = torch.randn(x.shape, dtype=torch.float64)
        x_whole, x_part = x.double(), shard_of(x, counts, rank).clone()
        if case.channels_last:
            x_part = x_part.contiguous(memory_format=torch.channels_last)
        x_whole.requires_grad_()
        x_part.requires_grad_()
        y_whole, y_part = whole(x_whole), part(x_part)
        loss_of(y_whole, target).backward()
        loss_of(y_part, shard_of(target, counts, rank)).backward()
        found[f"output {step}"] = relative(y_part, shard_of(y_whole, counts, rank))
        gradient = shard_of(x_whole.grad, counts, rank)
        found[f"input gradient {step}"] = relative(x_part.grad, gradient)
        if case.channels_last:
            found["format"] = all(
                t.is_contiguous(memory_format=torch.channels_last) for t in (y_part, x_part.grad)
            )
        found["dtype"] = y_part.dtype == x_part.grad.dtype == case.dtype
    for (name, parameter), expected in zip(
        part.named_parameters(), whole.parameters(), strict=True
    ):
        total = parameter.grad.clone()  # of both steps
        dist.all_reduce(total)
        found[f"{name} gradient"] = relative(total, expected.grad)
    for (name, buffer), expected in zip(part.named_buffers(), whole.buffers(), strict=True):
        found[name] = relative(buffer, expected)
    return found


def compare_model(counts: list[int], rank: int) -> dict[str, float]:
    """A timm model whose batch norms carry activations."""
    torch.manual_seed(2)
    whole = timm.create_model("mobilenetv3_small_050", num_classes=0, in_chans=1).double().train()
    part = make_global(copy.deepcopy(whole))
    x = torch.randn(sum(counts), 1, 64, 64, dtype=torch.float64)
    y_whole, y_part = whole(x), part(shard_of(x, counts, rank))
    target = torch.randn(y_whole.shape, dtype=torch.float64)
    loss_of(y_whole, target).backward()
    loss_of(y_part, shard_of(target, counts, rank)).backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in part.parameters()])
    dist.all_reduce(gradients)
    expected = torch.cat([parameter.grad.flatten() for parameter in whole.parameters()])
    buffers = torch.cat([buffer.flatten().double() for buffer in part.buffers()])
    expected_buffers = torch.cat([buffer.flatten().double() for buffer in whole.buffers()])
    return {
        "output": relative(y_part, shard_of(y_whole, counts, rank)),
        "gradient": relative(gradients, expected),
        "buffers": relative(buffers, expected_buffers),
    }


def compile_small_model() -> dict[str, float]:
    """How often one is compiled, and how far it is from one that is not."""
    torch.manual_seed(dist.get_rank())
    plain = make_global(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))).double().train()
    for tensor in plain.parameters():
        dist.broadcast(tensor.data, 0)
    compiled = copy.deepcopy(plain)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled.compile(backend=backend)
    for _ in range(3):
        x = torch.randn(4, 2, 3, 3, dtype=torch.float64)
        for model in (plain, compiled):
            model(x).square().sum().backward()
    parts = [*plain.parameters(), *plain.buffers()], [*compiled.parameters(), *compiled.buffers()]
    values = [torch.cat([p.detach().double().flatten() for p in part]) for part in parts]
    gradients = [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in (plain, compiled)]
    return {"graphs": len(graphs), "values": relative(*values), "gradient": relative(*gradients)}


def compare_all() -> dict[str, dict]:
    """What one process of a launch finds."""
    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    counts, rank = SPLITS[dist.get_world_size()], dist.get_rank()
    found = {name: compare(case, counts, rank) for name, case in CASES.items()}
    found["mobilenet"] = compare_model(counts, rank)
    found["compiled"] = compile_small_model()
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[int, list[dict]]:
    folder = tmp_path_factory.mktemp("batch_norm")
    return {w: results(launch(folder / str(w), w, compare_all)) for w in SPLITS}


@pytest.mark.parametrize("processes", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_uneven_processes_compute_batch_norm_of_the_whole_batch(found, name, processes):
    for of_rank in found[processes]:
        case = of_rank[name]
        assert case.pop("dtype") and case.pop("format", True), case
        assert len(case) >= 4 and max(case.values()) <= CASES[name].tolerance, case


@pytest.mark.parametrize("processes", SPLITS)
def test_a_model_with_activations_in_its_norms_computes_what_one_process_does(found, processes):
    for of_rank in found[processes]:
        assert max(of_rank["mobilenet"].values()) <= 1e-11, of_rank["mobilenet"]


@pytest.mark.parametrize("processes", SPLITS)
def test_a_model_is_compiled_whole_and_once(found, processes):
    for of_rank in found[processes]:
        assert of_rank["compiled"]["graphs"] == 1
        assert max(of_rank["compiled"]["values"], of_rank["compiled"]["gradient"]) <= EXACT


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_names_activations_and_values_stay(name):
    model = timm.create_model(name, num_classes=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    activations = [type(m.act) for m in model.modules() if isinstance(m, BatchNormAct2d)]
    turned = make_global(model)
    norms = [m for m in turned.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) >= 20
    assert not any(type(m) in (nn.BatchNorm2d, BatchNormAct2d) for m in norms)
    assert [type(m.act) for m in norms if hasattr(m, "act")] == activations
    after = turned.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("affine", [True, False])
def test_the_gradient_is_that_of_finite_differences(affine):
    norm = make_global(nn.BatchNorm2d(3, affine=affine).double().train())
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    if affine:
        nn.init.normal_(norm.weight)

        def by_weights(weight, bias):
            return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, x.detach())

        assert torch.autograd.gradcheck(by_weights, (norm.weight, norm.bias))


def statistics(norms, passes):
    """The running statistics that each pass alone would leave behind, averaged."""
    found = []
    for images, model in passes:
        model = copy.deepcopy(model)
        for module in model.modules():
            if isinstance(module, norms):
                module.momentum = 1.0
        model(images)
        found.append([b.double() for n, b in model.named_buffers() if "running" in n])
    return [torch.stack(values).mean(0) for values in zip(*found, strict=True)]


@pytest.mark.parametrize("over_processes", [False, True])
def test_chunks_move_running_statistics_once_toward_their_mean(over_processes):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        BatchNormAct2d(4, momentum=0.3),
        nn.Flatten(),
        nn.Linear(64, 6),
        nn.BatchNorm1d(6, track_running_stats=False),
        nn.BatchNorm1d(6, momentum=0.02),
        nn.BatchNorm1d(6, momentum=None),
    )
    model = model.double().train()
    if over_processes:
        model = make_global(model)
    for name, buffer in model.named_buffers():
        if "running" in name:
            nn.init.uniform_(buffer, 0.5, 1.5)
    images = torch.randn(16, 3, 6, 6, dtype=torch.float64)
    images[:8] += 2
    chunks = images.split(4)
    norms = nn.modules.batchnorm._BatchNorm
    before = [b.clone() for n, b in model.named_buffers() if "running" in n]
    means = statistics(norms, [(chunk, model) for chunk in chunks])
    momenta = [0.1, 0.1, 0.3, 0.3, 0.02, 0.02, 1.0, 1.0]  # None: 1 / batches
    expected = [a.lerp(b, m) for a, b, m in zip(before, means, momenta, strict=True)]

    with ChunkStatistics(model).one_update() as counted:
        for number, chunk in enumerate(chunks):
            counted.weigh(number)
            model(chunk)
        counted.weigh(None)
        for chunk in chunks:
            model(chunk)

    after = [b for n, b in model.named_buffers() if "running" in n]
    for value, wanted in zip(after, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=1e-12)
    assert {int(b) for n, b in model.named_buffers() if "num_batches" in n} == {1}
    tracked = [m for m in model.modules() if isinstance(m, norms) and m.track_running_stats]
    assert [m.momentum for m in tracked] == [0.1, 0.3, 0.02, None]


def test_a_compiled_backbone_is_compiled_once_for_each_kind_of_pass():
    """Whatever the number of chunks: what changed from one to the next would be compiled in."""
    model = timm.create_model("test_resnet", num_classes=0).train()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    torch._dynamo.reset()
    model.compile(backend=backend)
    chunks = torch.randn(20, 3, 32, 32).split(2)
    with ChunkStatistics(model).one_update() as counted:
        for number, chunk in enumerate(chunks):
            counted.weigh(number)
            with torch.no_grad():
                model(chunk)
        assert len(compiled) == 1
        counted.weigh(None)
        for chunk in chunks:
            model(chunk).sum().backward()
    assert len(compiled) == 2


def test_a_chunk_without_images_on_any_process_counts_for_nothing():
    torch.manual_seed(0)
    whole, part = (make_global(nn.BatchNorm2d(3).train()) for _ in range(2))
    chunks = torch.randn(6, 3, 4, 4).split(2)
    for norm, passes in ((whole, chunks), (part, [chunks[0], chunks[1][:0], *chunks[1:]])):
        with ChunkStatistics(norm).one_update() as counted:
            for number, chunk in enumerate(passes):
                counted.weigh(number)
                norm(chunk)
    for value, expected in zip(part.buffers(), whole.buffers(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_without_images_moves_no_statistics(momentum):
    norm = make_global(nn.BatchNorm2d(3, momentum=momentum).train())
    before = [buffer.clone() for buffer in norm.buffers()]
    x = torch.empty(0, 3, 4, 4, requires_grad=True)
    norm(x).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), before, strict=True))
    assert torch.equal(norm.weight.grad, torch.zeros(3)) and x.grad.shape == x.shape


def test_buffers_of_several_dtypes_are_averaged_each_in_its_own():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4).double()).train()
    x = torch.randn(3, 8, 4)
    with ChunkStatistics(model).one_update() as counted:
        for number, chunk in enumerate(x):
            counted.weigh(number)
            model[0](chunk)
            model[1](chunk.double())
    assert [m.running_var.dtype for m in model] == [torch.float32, torch.float64]
    torch.testing.assert_close(model[0].running_mean.double(), model[1].running_mean)
    torch.testing.assert_close(model[0].running_mean, 0.1 * x.mean((0, 1)))
