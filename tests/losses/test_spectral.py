"""spectral: its formula, its minimizer on a finite augmentation graph, its invariances."""

import pytest
import references
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses import spectral


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("images, dim", [(24, 6), (6, 70)])
def test_spectral_matches_its_formula(views, images, dim):
    z = views_of_images(views, images, dim)
    expected, expected_gradient = value_and_gradient(lambda z: references.spectral(z, 0.7), z)
    value, gradient = value_and_gradient(lambda z: spectral(z, beta=0.7), z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, expected_gradient) <= 1e-12


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_spectral_minimizer_spans_the_top_eigenfunctions_of_the_augmentation_operator(beta):
    """12 points, 8 images that each have 4 of them as augmentations, all ordered pairs of those.

    p(x | n) is the table of augmentations; the operator, symmetrized by the marginal rho, is
    T = rho^-1/2 (sum_n p(n) p(x | n) p(x' | n)) rho^-1/2.
    """
    points, images, dim = 12, 8, 4
    generator = torch.Generator().manual_seed(3)
    augmentations = torch.stack([torch.randperm(points, generator=generator)[:4] for _ in range(8)])
    p = torch.nn.functional.one_hot(augmentations, points).double().mean(1)  # (images, points)
    rho = p.mean(0)
    assert (rho > 0).all()
    t = (p.T @ p / images) / torch.sqrt(rho[:, None] * rho)
    eigenvalues, eigenvectors = torch.linalg.eigh(t)
    top = eigenvectors[:, -dim - 1 : -1].flip(1)  # the last is the constant function
    lambdas = eigenvalues[-dim - 1 : -1].flip(0)

    first = augmentations.repeat_interleave(4, 1).flatten()
    second = augmentations.repeat(1, 4).flatten()
    f = torch.randn(points, dim, generator=generator).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [f], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = spectral(torch.stack([f[first], f[second]]), beta=beta)
        loss.backward()
        return loss

    optimizer.step(closure)
    g = rho.sqrt()[:, None] * (f - rho @ f).detach()
    expected = (1 - (1 - lambdas) / (2 * beta)).clamp(min=0)
    used = int((expected > 0).sum())
    assert used == {0.25: 1, 1.0: 4}[beta]
    left, singular, _ = torch.linalg.svd(g, full_matrices=False)
    torch.testing.assert_close(singular.square(), expected, rtol=0, atol=1e-6)
    overlap = torch.linalg.svdvals(left[:, :used].T @ top[:, :used])
    torch.testing.assert_close(overlap, torch.ones(used, dtype=torch.float64), rtol=0, atol=1e-6)


def test_spectral_at_one_half_is_the_spectral_contrastive_loss_up_to_a_constant():
    z = views_of_images(2, 30, 8)
    centered = z - z.reshape(-1, 8).mean(0)
    s = sum(view.T @ view for view in centered) / 60
    contrastive = -(centered[0] * centered[1]).sum(1).mean() + s.square().sum() / 2
    torch.testing.assert_close(spectral(z, beta=0.5), contrastive + 8 / 2)


def test_spectral_ignores_a_rotation_of_the_dimensions_and_an_offset():
    z = views_of_images(3, 20, 30)
    rotation = torch.linalg.qr(views_of_images(1, 30, 30, seed=1)[0])[0]
    torch.testing.assert_close(spectral(z @ rotation + 7), spectral(z))


def test_spectral_equal_orthonormal_views_cost_nothing():
    columns = torch.cat([torch.ones(1, 40, 1).double(), views_of_images(1, 40, 11)], 2)[0]
    z = torch.linalg.qr(columns)[0][:, 1:] * 40**0.5  # centered, S = I
    assert spectral(z.expand(3, -1, -1)).abs() < 1e-10


def test_spectral_does_not_depend_on_the_order_of_views_and_images():
    z = views_of_images(4, 20, 30)
    shuffled = z[[2, 0, 3, 1]][:, torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(spectral(shuffled), spectral(z))


def test_spectral_parts_add_up_to_the_loss():
    z = views_of_images(3, 20, 30).requires_grad_()
    loss, parts = spectral(z, beta=0.3, return_parts=True)
    assert set(parts) == {"invariance", "orthogonality"}
    assert not any(part.requires_grad or part.dim() for part in parts.values())
    torch.testing.assert_close(
        30 * (parts["invariance"] + 0.3 * parts["orthogonality"]), loss.detach()
    )
