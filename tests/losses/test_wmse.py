"""wmse: its formula, its sub-batches, its invariances, what it makes of a collapse."""

import importlib

import pytest
import references
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses.wmse import wmse


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("global_views", [None, 1, 2])
@pytest.mark.parametrize("images, size", [(24, None), (24, 8), (23, 7), (23, 99)])
def test_wmse_matches_its_formula(views, global_views, images, size):
    z = views_of_images(views, images, 5)
    parts = references.sub_batches(z, size or 10, 0)
    expected, slopes = value_and_gradient(lambda z: references.wmse(z, parts, 0.1, global_views), z)
    value, gradient = value_and_gradient(
        lambda z: wmse(z, size=size, eps=0.1, generator=seeded(), global_views=global_views), z
    )
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, slopes) <= 1e-12


def test_the_gradient_is_that_of_finite_differences():
    z = views_of_images(3, 11, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: wmse(z, size=5, generator=seeded()), z)


@pytest.mark.parametrize("images, size, expected", [(23, 7, [7, 8, 8]), (24, 8, [8, 8, 8])])
def test_every_image_is_in_one_sub_batch_and_sizes_differ_by_one_at_most(
    monkeypatch, images, size, expected
):
    module = importlib.import_module("effssl.losses.wmse")  # the name is that of the function too
    seen = []
    whiten = module.whiten
    monkeypatch.setattr(module, "whiten", lambda x, eps: seen.append(x) or whiten(x, eps))
    z = torch.arange(images).double()[:, None].expand(2, images, 1)
    wmse(z, size=size)
    sizes = [x.shape[2] for x in seen for _ in range(x.shape[1])]
    assert sorted(sizes) == expected
    for view in range(2):
        found = torch.cat([x[view].flatten() for x in seen])
        assert torch.equal(found.sort().values, torch.arange(images).double())


def test_the_order_of_images_is_drawn_at_each_call_from_the_generator():
    z = views_of_images(2, 24, 3)
    one, two = seeded(), seeded()
    first = wmse(z, size=8, generator=one)
    assert torch.equal(wmse(z, size=8, generator=two), first)
    second = wmse(z, size=8, generator=one)
    assert not torch.equal(second, first)
    assert torch.equal(wmse(z, size=8, generator=two), second)
    torch.manual_seed(0)
    assert torch.equal(wmse(z, size=8), first)  # torch's own generator


def test_wmse_ignores_shifts_and_scales_of_a_view_and_the_order_of_views_and_images():
    z = views_of_images(4, 20, 5)
    expected = wmse(z, size=20)
    scale = torch.tensor([0.1, 1.0, 3.0, 40.0]).double()[:, None, None]
    torch.testing.assert_close(wmse(z * scale + scale, size=20), expected)
    shuffled = torch.randperm(20, generator=seeded(1))
    other = z[[2, 0, 3, 1]][:, shuffled]
    torch.testing.assert_close(wmse(other, size=20), expected)
    of_parts = (wmse(x, size=7, generator=seeded()) for x in (z, other))
    torch.testing.assert_close(*of_parts)


def test_wmse_ignores_a_lower_triangular_map_of_the_dimensions_but_not_a_rotation():
    z = views_of_images(3, 20, 5)
    expected = wmse(z, size=20, eps=0.0)
    lower = views_of_images(1, 5, 5, seed=1)[0].tril(-1) + torch.diag(torch.arange(1, 6)).double()
    torch.testing.assert_close(wmse(z @ lower.T, size=20, eps=0.0), expected)
    # the factor of Cholesky takes dimensions in their order; angles of rows are not its own
    rotation = torch.linalg.qr(views_of_images(1, 5, 5, seed=1)[0])[0]
    assert (wmse(z @ rotation, size=20, eps=0.0) - expected).abs() > 1e-4


def test_equal_views_cost_nothing_and_opposite_views_four():
    z = views_of_images(1, 20, 5)
    assert wmse(z.expand(3, -1, -1)).abs() < 1e-12
    torch.testing.assert_close(wmse(torch.cat([z, -z])), torch.tensor(4.0).double())


def test_unrelated_views_cost_two_and_their_invariance_is_one():
    z = torch.randn(2, 4000, 8, generator=seeded())
    value, parts = wmse(z, return_parts=True)
    assert set(parts) == {"invariance"} and not parts["invariance"].requires_grad
    assert value == pytest.approx(2, abs=0.05)
    torch.testing.assert_close(2 * parts["invariance"], value)


@pytest.mark.parametrize("constant", [0.0, 3.7])
@pytest.mark.parametrize("images, dim", [(16, 4), (32, 8), (64, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_are_all_the_same_cost_two_and_have_no_gradient(constant, images, dim, dtype):
    z = torch.full((3, images, dim), constant, dtype=dtype)
    value, gradient = value_and_gradient(wmse, z)
    assert value == 2 and not gradient.any()


def test_a_view_whose_rows_are_all_the_same_gets_no_gradient():
    z = views_of_images(2, 32, 4).float()
    z[1] = 3.7
    value, gradient = value_and_gradient(wmse, z)
    assert value == 2 and not gradient[1].any()


def test_dimensions_that_are_all_the_same_have_a_finite_loss_and_gradient():
    z = views_of_images(3, 32, 1).float().expand(-1, -1, 8)
    value, gradient = value_and_gradient(wmse, z)
    assert 0 < value <= 4 and gradient.isfinite().all()


def test_wmse_of_nan_projections_is_nan():
    z = views_of_images(2, 32, 4)
    z[0, 3, 2] = float("nan")
    assert wmse(z).isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wmse_of_fewer_digits_is_that_of_the_same_numbers_in_float64(dtype):
    z = views_of_images(3, 64, 16).to(dtype)
    expected, slopes = value_and_gradient(lambda z: wmse(z, generator=seeded()), z.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, gradient = value_and_gradient(lambda z: wmse(z, generator=seeded()), z)
    assert value.dtype == torch.float32 and gradient.dtype == dtype
    assert relative_difference(value.double(), expected) <= 1e-6
    limit = 1e-6 if dtype == torch.float32 else 2**-8
    assert relative_difference(gradient.double(), slopes) <= limit


@pytest.mark.parametrize(
    "images, dim, size, got",
    [(64, 64, None, "64 of 64"), (128, 256, None, "128 of 128"), (128, 64, 40, "42 of 128")],
)
def test_a_sub_batch_has_more_images_than_dimensions(images, dim, size, got):
    with pytest.raises(ValueError, match=f"more than {dim} images, .* got {got}; take a larger"):
        wmse(torch.zeros(2, images, dim), size=size)


def test_size_is_a_number_of_images_and_eps_a_share():
    z = views_of_images(2, 32, 4)
    with pytest.raises(ValueError, match="size is a number of images, 1 or more, .* got 0"):
        wmse(z, size=0)
    for eps in (-1e-6, float("nan")):
        with pytest.raises(ValueError, match="eps is a share of the mean variance, 0 or more"):
            wmse(z, eps=eps)


@pytest.mark.parametrize("views", [2, 4])
def test_without_a_ridge_wmse_is_that_of_lightly(views):
    lightly = pytest.importorskip("lightly.loss.wmse_loss")
    z = views_of_images(views, 24, 4).float()
    z = z[:, z.double().sum((0, 2)).argsort()]  # the order that is shuffled
    theirs = lightly.WMSELoss(embedding_dim=4, w_size=8, num_samples=views)
    torch.manual_seed(0)
    expected, slopes = value_and_gradient(lambda z: theirs(z.flatten(0, 1)), z)
    torch.manual_seed(0)
    value, gradient = value_and_gradient(lambda z: wmse(z, eps=0.0), z)
    assert relative_difference(value, expected) <= 1e-5
    assert relative_difference(gradient, slopes) <= 1e-4
