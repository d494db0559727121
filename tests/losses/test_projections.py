"""What holds for every loss: precision, collapse, bad input."""

import re

import pytest
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses import (
    barlow_twins,
    coding_rate,
    sigreg,
    simclr,
    spectral,
    vicreg,
    wmse,
)


def barlow_twins_mean(z, **weights):
    return barlow_twins(z, multiview="mean", **weights)


def seeded_sigreg(z):
    return sigreg(z, generator=torch.Generator().manual_seed(0))


def seeded_wmse(z):
    if isinstance(z, torch.Tensor) and z.dim() == 3:
        z = z[..., :5]  # since it takes more images than dimensions
    return wmse(z, generator=torch.Generator().manual_seed(0))


LOSSES = [barlow_twins, barlow_twins_mean, vicreg, spectral]
LOSSES += [simclr, seeded_sigreg, coding_rate, seeded_wmse]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dim", [16, 64])
def test_a_loss_under_bf16_autocast_runs_in_float32(loss, dim):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 48, 20, generator=generator)
    network = torch.nn.Linear(20, dim)

    def projection_gradient(loss_in_autocast):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = network(images).detach().requires_grad_()
        assert z.dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=loss_in_autocast):
            value = loss(z)
            value.backward()
        assert value.dtype == torch.float32
        return value.detach(), z.grad, z.detach()

    inside, inside_gradient, z = projection_gradient(True)
    outside, outside_gradient, _ = projection_gradient(False)
    assert relative_difference(inside, outside) <= 1e-5
    assert relative_difference(inside_gradient.double(), outside_gradient.double()) <= 1e-5
    exact, exact_gradient = value_and_gradient(loss, z.double())
    assert relative_difference(inside.double(), exact) <= 1e-5
    # the gradient itself is rounded to bf16
    assert relative_difference(inside_gradient.double(), exact_gradient) <= 2**-8


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("images, dim", [(64, 16), (16, 64)])
def test_float32_is_close_to_float64(loss, images, dim):
    z = views_of_images(3, images, dim)
    exact, exact_gradient = value_and_gradient(loss, z)
    value, gradient = value_and_gradient(loss, z.float())
    assert exact.dtype == torch.float64 and value.dtype == torch.float32
    assert relative_difference(value, exact) <= 1e-5
    assert relative_difference(gradient, exact_gradient) <= 1e-5


@pytest.mark.parametrize("loss", LOSSES)
def test_float16_does_not_overflow_at_width_8192(loss):
    z = (30 * torch.randn(2, 16, 8192, generator=torch.Generator().manual_seed(0))).half()
    value, gradient = value_and_gradient(lambda z: 1e-6 * loss(z), z)
    expected, expected_gradient = value_and_gradient(lambda z: 1e-6 * loss(z), z.float())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient.half())
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("images, dim", [(32, 8), (8, 32)])
@pytest.mark.parametrize("constant", [0.0, 3.7])
def test_a_collapsed_batch_has_a_finite_value_and_gradient(loss, images, dim, constant):
    z = torch.full((3, images, dim), constant)
    value, gradient = value_and_gradient(loss, z)
    assert value.isfinite() and value > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_rows_of_zeros_have_a_gradient_that_float16_holds(loss):
    z = views_of_images(3, 32, 8)
    z[1, 4] = z[:, 7] = 0
    value, gradient = value_and_gradient(loss, z.half())
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_leaves_its_input_as_it_is(loss):
    z = views_of_images(2, 10, 20)
    before = z.clone()
    value_and_gradient(loss, z)
    assert torch.equal(z, before)
    x = z.requires_grad_()
    loss(x).backward()
    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_takes_projections_that_are_not_contiguous(loss):
    z = views_of_images(3, 10, 20)
    strided = z.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    value, gradient = value_and_gradient(loss, z)
    other, other_gradient = value_and_gradient(loss, strided)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient)


@pytest.mark.parametrize("loss", LOSSES)
def test_blocks_of_rows_do_not_change_a_loss(loss, monkeypatch):
    z = views_of_images(3, 11, 20)
    value, gradient = value_and_gradient(loss, z)
    monkeypatch.setattr("effssl.losses._blocks.BLOCK_ELEMENTS", 4 * 3 * 20)
    other, other_gradient = value_and_gradient(loss, z)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "shape, message",
    [
        ((8, 4), "shape (views, images, dim), got (8, 4)"),
        ((1, 8, 4), "2 or more views of each image, got 1 in shape (1, 8, 4)"),
        ((2, 1, 4), "need 2 or more images, got 1"),
        ((2, 0, 4), "need 2 or more images, got 0"),
        ((2, 8, 0), "1 or more wide, got shape (2, 8, 0)"),
    ],
)
def test_a_loss_rejects_a_wrong_shape(loss, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loss(torch.zeros(shape))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "z, got", [(torch.zeros(2, 8, 4, dtype=torch.int64), "torch.int64"), ([[[0.0]]], "list")]
)
def test_a_loss_rejects_what_is_not_a_floating_point_tensor(loss, z, got):
    with pytest.raises(TypeError, match=f"floating-point tensor, got {got}"):
        loss(z)


@pytest.mark.parametrize(
    "loss, name",
    [
        (barlow_twins, "lambd"),
        (vicreg, "invariance"),
        (vicreg, "variance"),
        (vicreg, "covariance"),
        (spectral, "beta"),
    ],
)
@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_loss_rejects_a_weight_that_is_negative_or_not_a_number(loss, name, weight):
    with pytest.raises(ValueError, match=f"{name} is the weight of a loss term, 0 or more, got"):
        loss(torch.zeros(2, 8, 4), **{name: weight})


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_nan_projections_is_nan(loss):
    z = views_of_images(2, 8, 4)
    z[0, 3, 2] = float("nan")
    assert loss(z).isnan()


@pytest.mark.gpu
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("images, dim", [(64, 16), (16, 64)])
def test_a_loss_on_a_gpu_is_that_on_the_cpu_and_never_waits_for_the_device(loss, images, dim):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    z = views_of_images(3, images, dim).float()
    expected, expected_gradient = value_and_gradient(loss, z)
    z = z.cuda()
    value_and_gradient(loss, z)
    torch.cuda.set_sync_debug_mode("error")
    try:
        value, gradient = value_and_gradient(loss, z)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient.cpu(), expected_gradient, rtol=1e-3, atol=1e-4)
