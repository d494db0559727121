"""coding_rate: its formula, its form by images, its largest value, its invariances."""

import math

import pytest
import references
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses.coding_rate import coding_rate


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("global_views", [None, 1, 2])
@pytest.mark.parametrize("images, dim", [(24, 6), (6, 6), (6, 70)])
def test_coding_rate_matches_its_formula(views, global_views, images, dim):
    z = views_of_images(views, images, dim)
    given = {"eps": 0.3, "invariance": 7.0, "global_views": global_views}
    expected, slopes = value_and_gradient(lambda z: references.coding_rate(z, *given.values()), z)
    value, gradient = value_and_gradient(lambda z: coding_rate(z, **given), z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, slopes) <= 1e-12


def test_defaults_are_those_of_the_authors_code():
    z = views_of_images(2, 24, 6)
    torch.testing.assert_close(coding_rate(z), references.coding_rate(z, 0.2, 200.0))


@pytest.mark.parametrize("images, dim", [(16, 6), (6, 16)])
def test_the_gradient_is_that_of_finite_differences(images, dim):
    z = views_of_images(3, images, dim).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: coding_rate(z, invariance=3.0), z)


@pytest.mark.parametrize("copies", [1, 5])
def test_equal_orthonormal_rows_have_the_largest_rate(copies):
    z = torch.linalg.qr(views_of_images(1, 8, 8)[0])[0].repeat(copies, 1).expand(3, -1, -1)
    value, parts = coding_rate(3 * z, eps=0.5, return_parts=True)
    assert value == pytest.approx(0, abs=1e-10)
    largest = 8 / 2 * math.log(1 + 1 / 0.5)
    authors = references.coding_rate_of_authors(3 * z, 0.5, 200)
    torch.testing.assert_close(authors, torch.tensor(-largest - 200).double())
    assert parts["rate"] == pytest.approx(0, abs=1e-12)
    assert parts["invariance"] == pytest.approx(0, abs=1e-12)


def test_orthonormal_rows_fewer_than_dimensions_have_the_largest_rate():
    z = torch.linalg.qr(views_of_images(1, 8, 8)[0])[0][:5].expand(2, -1, -1)
    value, parts = coding_rate(z, eps=0.5, invariance=0, return_parts=True)
    assert value == pytest.approx(0, abs=1e-12)
    assert parts["rate"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("images", [12, 4])
def test_rows_that_are_all_the_same_have_the_rate_of_one_direction(images):
    z = torch.full((3, images, 8), 2.5).double()
    value = coding_rate(z, eps=0.5, invariance=7.0)
    rank = min(images, 8)
    largest = rank / 2 * math.log(1 + 8 / (rank * 0.5))
    assert value == pytest.approx(largest - math.log(1 + 8 / 0.5) / 2)


def test_unrelated_views_have_an_invariance_near_one_and_opposite_views_one():
    z = torch.randn(2, 400, 64, generator=torch.Generator().manual_seed(0)).double()
    many = torch.randn(64, 400, 64, generator=torch.Generator().manual_seed(0)).double()
    assert coding_rate(many, return_parts=True)[1]["invariance"] == pytest.approx(7 / 8, abs=0.01)
    opposite = torch.stack([z[0], -z[0]])
    assert coding_rate(opposite, return_parts=True)[1]["invariance"] == pytest.approx(1)


@pytest.mark.parametrize("images, dim", [(20, 8), (8, 20)])
def test_coding_rate_ignores_rotations_scales_of_rows_and_the_order_of_views_and_images(
    images, dim
):
    z = views_of_images(4, images, dim)
    expected = coding_rate(z)
    rotation = torch.linalg.qr(views_of_images(1, dim, dim, seed=1)[0])[0]
    torch.testing.assert_close(coding_rate(z @ rotation), expected)
    scales = views_of_images(4, images, 1, seed=2).abs() + 0.1
    torch.testing.assert_close(coding_rate(z * scales), expected)
    shuffled = torch.randperm(images, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(coding_rate(z[[2, 0, 3, 1]][:, shuffled]), expected)
    assert (coding_rate(z + 1) - expected).abs() > 1e-3  # rows are not centered


def test_parts_give_the_loss():
    z = views_of_images(3, 20, 6).requires_grad_()
    loss, parts = coding_rate(z, eps=0.3, invariance=7.0, return_parts=True)
    assert set(parts) == {"invariance", "rate"}
    assert not any(part.requires_grad or part.dim() for part in parts.values())
    missing = parts["rate"] * 6 / 2 * math.log(1 + 1 / 0.3)
    torch.testing.assert_close(loss.detach(), missing + 7 * parts["invariance"])


def test_a_step_down_the_loss_raises_the_rate_and_the_cosines():
    z = views_of_images(3, 20, 6)
    _, gradient = value_and_gradient(lambda z: coding_rate(z, invariance=3.0), z)
    _, before = coding_rate(z, return_parts=True)
    _, after = coding_rate(z - 0.01 * gradient / gradient.norm() * z.norm(), return_parts=True)
    assert after["rate"] < before["rate"] and after["invariance"] < before["invariance"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("images, dim", [(64, 16), (16, 64), (16, 8192)])
def test_coding_rate_of_fewer_digits_is_that_of_the_same_numbers_in_float64(dtype, images, dim):
    z = (30 * torch.randn(2, images, dim, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected, slopes = value_and_gradient(lambda z: 1e3 * coding_rate(z), z.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(lambda z: 1e3 * coding_rate(z), z)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert relative_difference(value.double(), expected) <= 1e-5
    limit = 1e-5 if dtype == torch.float32 else 2**-8
    assert relative_difference(gradient.double(), slopes) <= limit


@pytest.mark.parametrize("images", [12, 3])
@pytest.mark.parametrize("constant", [0.0, 3.7])
def test_a_collapsed_batch_has_a_finite_value_and_gradient(images, constant):
    value, gradient = value_and_gradient(coding_rate, torch.full((3, images, 8), constant))
    assert value.isfinite() and gradient.isfinite().all()


@pytest.mark.parametrize("eps", [0.0, -0.2, float("nan")])
def test_eps_is_above_0(eps):
    with pytest.raises(ValueError, match="eps is a squared error, above 0"):
        coding_rate(torch.zeros(2, 8, 4), eps=eps)


@pytest.mark.parametrize("images", [12, 3])
def test_coding_rate_of_nan_projections_is_nan(images):
    z = views_of_images(2, images, 8)
    z[0, 2, 2] = float("nan")
    assert coding_rate(z).isnan()


def test_lightly_lowers_the_coding_rate_where_the_authors_raise_it():
    lightly = pytest.importorskip("lightly.loss.emp_ssl_loss")
    z = torch.nn.functional.normalize(views_of_images(3, 24, 6).float(), dim=-1)
    theirs = lightly.EMPSSLLoss(tcr_eps=0.3, inv_coef=7.0)(list(z))
    rate = -references.coding_rate_of_authors(z, 0.3, 0)
    constant = references.coding_rate(z, 0.3, 7.0) - references.coding_rate_of_authors(z, 0.3, 7.0)
    torch.testing.assert_close(
        theirs - 2 * rate + constant, coding_rate(z, eps=0.3, invariance=7.0)
    )
