"""The fused kernels: the views of the eager path, in the interpreter; no spills once compiled."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fused_cases import CASES
from torch.utils._python_dispatch import TorchDispatchMode

import effssl.views
from effssl.views import PRESETS, MultiView, ViewOptions
from effssl.views import _eager as eager
from effssl.views import _fallback as fallback

# in pixel units: 1/255 is promised, 2/255 of bfloat16, which rounds the views themselves
BOUNDS = {torch.float32: 1e-4, torch.float16: 0.5 / 255, torch.bfloat16: 1.5 / 255}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What Triton's interpreter makes of every case."""
    pytest.importorskip("triton")
    path = tmp_path_factory.mktemp("fused") / "views.pt"
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = Path(__file__).with_name("fused_cases.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", program, path],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


def distance(case, views):
    """The largest difference from the eager path in float32, in pixel units."""
    pixels, plan = case.inputs()
    options = {"channels": case.channels, "size": case.size, "dtype": torch.float32}
    expected = eager.render(pixels, plan, case.multi_view().options, **options)
    stats = case.multi_view().options.channel_stats(case.channels)
    std = torch.tensor(stats[1]).view(-1, 1, 1)
    return ((views.float().cpu() - expected) * std).abs().max().item()


@pytest.mark.parametrize("name", CASES)
def test_the_kernels_make_the_views_of_the_eager_path(interpreted, name):
    case, views = CASES[name], interpreted[name]
    shape = (case.views * case.images, case.channels, case.size, case.size)
    assert views.shape == shape and views.dtype == case.dtype
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert distance(case, views) < BOUNDS[case.dtype]


def test_the_cases_need_every_operation():
    plan = torch.cat([CASES[name].inputs()[1] for name in ("rotated", "every operation")], dim=1)
    rows = effssl.views._plan
    for row, neutral in (
        (rows.FLIP, 0),
        (rows.SATURATION, 1),
        (rows.HUE, 0),
        (rows.GREY, 0),
        (rows.SIGMA, 0),
        (rows.SOLARIZE, 0),
        (rows.MIRROR, 0),
        (rows.TRANSPOSE, 0),
        (rows.ERASE_WIDTH, 0),
        (rows.COS, 1),
        (rows.FACTORS, 1),
        (rows.FACTORS + 3, 1),
    ):
        needed = plan[row] != neutral
        assert needed.any() and not needed.all(), row


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_make_the_views_of_the_eager_path_on_the_gpu(name, caplog):
    case = CASES[name]
    pixels, plan = case.inputs()
    views = case.multi_view().render(pixels.cuda(), plan, channels=case.channels, dtype=case.dtype)
    assert not caplog.records
    assert distance(case, views.flatten(0, 1)) < BOUNDS[case.dtype]


class Kernels(TorchDispatchMode):
    """Counts the fused kernels, the bytes of their operands, and those of the largest result."""

    count = bytes = largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.namespace == "effssl":
            results = out if isinstance(out, tuple) else (out,)
            tensors = [t for t in (*args, *results) if isinstance(t, torch.Tensor)]
            self.count += 1
            self.bytes += sum(t.nbytes for t in tensors)
            made = [t.nbytes for t in results if isinstance(t, torch.Tensor)]
            self.largest = max(self.largest, *made, 0)
        return out


@pytest.mark.parametrize(
    ("images", "dtype", "most_kernels", "most_megabytes"),
    [
        (128, torch.bfloat16, 8, 2),
        (1024, torch.bfloat16, 40, 2.5),
        (1024, torch.float32, 80, 4.5),
    ],
)
def test_the_kernels_of_a_step_are_few_and_move_few_bytes(
    images, dtype, most_kernels, most_megabytes
):
    fused = pytest.importorskip("effssl.views._fused", exc_type=ImportError)
    options = PRESETS["imagenet"]
    multi_view = MultiView(options, views=8, size=224)
    sizes, starts = torch.tensor([[256, 341]]).expand(images, 2), torch.arange(images) * 261_888
    plan = multi_view.plan(multi_view.draw(images, torch.Generator().manual_seed(0)), sizes, starts)
    pixels = torch.empty(images * 261_888, dtype=torch.uint8, device="meta")
    with Kernels() as kernels:
        shape = {"channels": 3, "size": 224, "dtype": dtype}
        views = fused.render(pixels, plan, plan.to("meta"), options, **shape)
    assert views.shape == (8 * images, 3, 224, 224)
    assert 4 <= kernels.count <= most_kernels and kernels.largest <= fused.SCRATCH_BYTES
    assert 0.9e6 < kernels.bytes / (8 * images) <= most_megabytes * 1e6


@pytest.fixture
def built(monkeypatch, tmp_path):
    """What the launches of `fused.render` compile, for a card that need not be there.

    A function of the card's architecture and the arguments of `render`; it returns names and
    machine code of the kernels that were not compiled before. Nothing is launched.
    """
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from effssl.views import _fused as fused

    kernel_type, codes = triton.runtime.JITFunction, []
    run, compile_ = kernel_type.run, kernel_type._do_compile

    def compile_and_keep(self, *args):
        kernel = compile_(self, *args)
        codes.append((self.__name__, kernel.asm["cubin"]))
        return kernel

    def compile_alone(self, *args, grid, warmup, **kwargs):
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_type, "_do_compile", compile_and_keep)
    monkeypatch.setattr(kernel_type, "run", compile_alone)
    for name in ("crop", "rotated_crop", "color", "blur_down", "blur_across"):
        monkeypatch.setattr(fused, name, getattr(fused, name)._init_fn)  # takes the CPU, too

    def build(architecture, *args, **kwargs):
        card = SimpleNamespace(
            get_current_device=lambda: architecture,
            get_current_stream=lambda device: 0,
            get_current_target=lambda: GPUTarget("cuda", architecture, 32),
        )
        monkeypatch.setattr(triton.runtime.driver, "_active", card)
        codes.clear()
        fused.render(*args, **kwargs)
        return list(codes)

    return build


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize(
    ("preset", "channels", "size", "dtype"),
    [
        ("imagenet", 3, 224, torch.bfloat16),
        ("multispectral", 13, 96, torch.float32),
        (ViewOptions(erase=0.5).over("microscopy"), 3, 160, torch.bfloat16),
        (ViewOptions(rotate=20).over("imagenet"), 3, 128, torch.bfloat16),
    ],
)
def test_the_kernels_compile_once_and_without_spilling_registers(
    built, architecture, preset, channels, size, dtype, tmp_path, monkeypatch
):
    import triton

    from effssl.views import _fused as fused

    dump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not dump.exists():
        pytest.skip("Triton came without cuobjdump")
    multi_view = MultiView(preset, views=2, size=size)
    four_views = 4 * channels * size**2 * (2 if dtype == torch.bfloat16 else 4)
    monkeypatch.setattr(fused, "SCRATCH_BYTES", four_views)

    def codes(images):
        sizes = torch.tensor([[20, 30]]).expand(images, 2)
        pixels = torch.zeros(images * channels * 600 + 1, dtype=torch.uint8)[images % 2 :]
        draws = multi_view.draw(images, channels=channels)
        plan = multi_view.plan(draws, sizes, torch.zeros(images), channels=channels)
        shape = {"channels": channels, "size": size, "dtype": dtype}
        return built(architecture, pixels, plan, None, multi_view.options, **shape)

    found = codes(16)
    names = sorted(name for name, _ in found)
    crops = ["around_kernel", "turn_kernel"] if multi_view.options.rotate else ["crop_kernel"]
    assert names == sorted(["across_kernel", "color_kernel", "down_kernel", *crops])
    for name, code in found:
        (tmp_path / name).write_bytes(code)
        said = subprocess.run(
            [dump, "--dump-resource-usage", tmp_path / name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        used = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
        assert used["STACK"] == "0" and used["LOCAL"] == "0", (name, used)
        assert int(used["REG"]) <= 128, (name, used)
    # the numbers of images and of blurred views, and where chunks begin, are not compiled in
    assert not codes(1) and not codes(7) and not codes(16)


def eager_after_a_warning(monkeypatch, caplog):
    """Twice the views that the kernels should have made; the text of the one warning."""
    monkeypatch.setattr(fallback, "_given_up", False)
    monkeypatch.setattr(fallback, "DEVICE", "cpu")
    case = CASES["imagenet"]
    pixels, plan = case.inputs()
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            views = case.multi_view().render(pixels, plan, channels=3)
        assert distance(case, views.flatten(0, 1)) == 0
    (record,) = caplog.records
    return record.getMessage()


def test_a_kernel_that_does_not_start_leaves_the_views_to_torch_with_one_warning(
    monkeypatch, caplog
):
    pytest.importorskip("triton")
    message = eager_after_a_warning(monkeypatch, caplog)  # of a kernel for CUDA, on the CPU
    # which error depends on whether there is a driver
    assert "no Triton kernels for views" in message and "Error: " in message


def test_without_triton_the_views_are_left_to_torch_with_one_warning(monkeypatch, caplog):
    monkeypatch.delattr(effssl.views, "_fused", raising=False)
    monkeypatch.setitem(sys.modules, "effssl.views._fused", None)
    assert "ModuleNotFoundError" in eager_after_a_warning(monkeypatch, caplog)


def test_too_little_memory_is_not_taken_for_a_fault_of_the_kernels(monkeypatch):
    fused = pytest.importorskip("effssl.views._fused", exc_type=ImportError)

    def render(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused, "render", render)
    monkeypatch.setattr(fallback, "DEVICE", "cpu")
    case = CASES["imagenet"]
    pixels, plan = case.inputs()
    with pytest.raises(torch.OutOfMemoryError):
        case.multi_view().render(pixels, plan, channels=3)
    assert not fallback._given_up
