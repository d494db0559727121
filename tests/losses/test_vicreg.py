"""vicreg: the authors' formula, its mean over pairs, its invariances."""

import pytest
import torch
from references import (
    relative_difference,
    value_and_gradient,
    vicreg_of_two,
    vicreg_pairs,
    views_of_images,
)

from effssl.losses import vicreg

WEIGHTS = (25.0, 15.0, 2.0)


def loss_of(z):
    return vicreg(z, invariance=WEIGHTS[0], variance=WEIGHTS[1], covariance=WEIGHTS[2])


@pytest.mark.parametrize("images, dim", [(512, 64), (32, 1024)])
def test_vicreg_matches_the_authors_formula_for_two_views(images, dim):
    z = views_of_images(2, images, dim)
    expected, expected_gradient = value_and_gradient(
        lambda z: vicreg_of_two(z[0], z[1], WEIGHTS), z
    )
    value, gradient = value_and_gradient(loss_of, z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, expected_gradient) <= 1e-12


def test_vicreg_matches_the_authors_formula_at_width_8192():
    z = views_of_images(2, 32, 8192).requires_grad_()
    std = torch.sqrt(z.var(1) + 1e-4)
    part = WEIGHTS[0] * (z[0] - z[1]).square().mean() + WEIGHTS[1] * torch.relu(1 - std).mean()
    part.backward()
    expected = part.detach()
    for view in range(2):
        for start in range(0, 8192, 128):  # a block of rows of the covariance at a time
            rows = slice(start, start + 128)
            x = z[view] - z[view].mean(0)
            cov = x[:, rows].T @ x / 31
            off_diagonal = cov.square().sum() - cov[:, rows].diagonal().square().sum()
            part = WEIGHTS[2] * off_diagonal / 8192
            part.backward()
            expected += part.detach()

    value, gradient = value_and_gradient(loss_of, z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, z.grad) <= 1e-12


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("images, dim", [(24, 6), (12, 50)])
def test_vicreg_is_the_mean_over_pairs(views, images, dim):
    z = views_of_images(views, images, dim)
    expected, expected_gradient = value_and_gradient(lambda z: vicreg_pairs(z, WEIGHTS), z)
    value, gradient = value_and_gradient(loss_of, z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, expected_gradient) <= 1e-12


def test_vicreg_equal_decorrelated_views_of_unit_variance_cost_nothing():
    columns = torch.cat([torch.ones(1, 40, 1).double(), views_of_images(1, 40, 11)], 2)[0]
    z = torch.linalg.qr(columns)[0][:, 1:] * 39**0.5  # centered, covariance I
    assert loss_of(z.expand(3, -1, -1)).abs() < 1e-10


def test_vicreg_ignores_one_offset_of_all_views():
    z = views_of_images(3, 20, 30)
    torch.testing.assert_close(loss_of(z + torch.linspace(-5, 5, 30)), loss_of(z))


def test_vicreg_sees_an_offset_between_views():
    z = views_of_images(1, 20, 30).expand(2, -1, -1)
    offset = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    torch.testing.assert_close(loss_of(z + offset), loss_of(z) + WEIGHTS[0])


def test_vicreg_does_not_depend_on_the_order_of_views_and_images():
    z = views_of_images(4, 20, 30)
    shuffled = z[[2, 0, 3, 1]][:, torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(loss_of(shuffled), loss_of(z))


def test_vicreg_parts_add_up_to_the_loss():
    z = views_of_images(3, 20, 30).requires_grad_()
    loss, parts = vicreg(z, invariance=3, variance=5, covariance=7, return_parts=True)
    assert set(parts) == {"invariance", "variance", "covariance"}
    assert not any(part.requires_grad or part.dim() for part in parts.values())
    total = 3 * parts["invariance"] + 5 * parts["variance"] + 7 * parts["covariance"]
    torch.testing.assert_close(total, loss.detach())
