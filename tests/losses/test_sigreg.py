"""sigreg: its formula, the statistic against integrals, what it tells apart, its directions."""

import math

import numpy as np
import pytest
import references
import torch
from references import random_directions, relative_difference, value_and_gradient, views_of_images
from scipy.integrate import quad

from effssl.losses import _blocks, sigreg


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statistic(z: torch.Tensor, **options) -> float:
    """The statistic of one sample (N, D), divided by N."""
    parts = sigreg(z.expand(2, -1, -1), generator=seeded(), return_parts=True, **options)[1]
    return parts["normality"].item()


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("global_views", [None, 1, 2])
@pytest.mark.parametrize("images, dim", [(24, 6), (6, 70)])
def test_sigreg_matches_its_formula(views, global_views, images, dim):
    z = views_of_images(views, images, dim)
    a = random_directions(dim, 9, 0)

    def loss(z):
        return sigreg(z, lambd=0.2, directions=9, generator=seeded(), global_views=global_views)

    expected, slopes = value_and_gradient(lambda z: references.sigreg(z, 0.2, a, global_views), z)
    value, gradient = value_and_gradient(loss, z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, slopes) <= 1e-12


def test_defaults_are_256_directions_and_the_authors_weight():
    z = views_of_images(2, 24, 6)
    expected = references.sigreg(z, 0.05, random_directions(6, 256, 0))
    torch.testing.assert_close(sigreg(z, generator=seeded()), expected)


SAMPLES = {
    "normal": lambda noise: noise,
    "scaled": lambda noise: 2 * noise,
    "shifted": lambda noise: noise + 1,
    "heavy-tailed": lambda noise: noise / (1.02 - noise.square().clamp(max=1)),
    "two clusters": lambda noise: noise.sign() + 0.1 * noise,
    "collapsed": lambda noise: 0 * noise + 0.3,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_statistic_is_the_integral_over_characteristic_functions(name):
    x = SAMPLES[name](torch.randn(40, 1, generator=seeded(), dtype=torch.float64))

    def integrand(t: float) -> float:
        phi = np.exp(1j * t * x.numpy()).mean()
        return abs(phi - math.exp(-(t**2) / 2)) ** 2 * math.exp(-(t**2) / 2)

    expected, error = quad(integrand, -5, 5, limit=500)
    assert error < 1e-8
    # knots 0.625 apart see numbers that are 2 pi / 0.625 = 10 apart as if they were the same
    far = {"scaled": 0.02, "heavy-tailed": 0.2}
    assert statistic(x, directions=3) == pytest.approx(expected, rel=far.get(name, 1e-4), abs=1e-5)


def test_the_statistic_goes_to_0_for_normal_projections_and_grows_for_all_others():
    noise = torch.randn(20_000, 8, generator=seeded(1), dtype=torch.float64)
    few, many = statistic(noise[:200]), statistic(noise)
    # its mean for normal numbers is that of (1 - exp(-t^2)) exp(-t^2 / 2), divided by N
    mean = math.sqrt(2 * math.pi) * (1 - 1 / math.sqrt(3))
    assert few * 200 == pytest.approx(mean, rel=0.5)
    assert many * 20_000 == pytest.approx(mean, rel=0.5)
    others = {name: statistic(sample(noise)) for name, sample in SAMPLES.items()}
    assert others.pop("normal") == many
    assert min(others.values()) > 20 * many
    low_rank = noise @ torch.diag(torch.tensor([1.0] * 4 + [0.0] * 4)).double()
    assert statistic(low_rank) > 20 * many
    zero = math.sqrt(2 * math.pi) * (1 - math.sqrt(2) + 1 / math.sqrt(3))
    assert statistic(0 * noise) == pytest.approx(zero, rel=1e-4)


def test_descent_makes_skewed_projections_normal():
    z = (torch.randn(2, 64, 4, generator=seeded(), dtype=torch.float64).exp() - 1).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    before = statistic(z[0].detach())
    for step in range(150):
        optimizer.zero_grad()
        sigreg(z, lambd=0.9, generator=seeded(step)).backward()
        optimizer.step()
    assert statistic(z[0].detach()) < before / 5


def test_the_gradient_is_that_of_finite_differences():
    z = views_of_images(3, 6, 4).requires_grad_()
    loss = lambda z: sigreg(z, lambd=0.3, directions=5, generator=seeded())  # noqa: E731
    assert torch.autograd.gradcheck(loss, z)


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_blocks_of_directions_change_nothing(count, monkeypatch):
    z = views_of_images(3, 7, 5)
    loss = lambda z: sigreg(z, directions=10, generator=seeded())  # noqa: E731
    value, gradient = value_and_gradient(loss, z)
    monkeypatch.setattr(_blocks, "BLOCK_ELEMENTS", 8 * 3 * 7 * count)
    other, other_gradient = value_and_gradient(loss, z)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient)


def test_directions_are_drawn_at_each_call_and_are_the_same_in_every_precision():
    z = views_of_images(2, 24, 6)
    one, two = seeded(), seeded()
    first = sigreg(z, generator=one)
    assert torch.equal(sigreg(z, generator=two), first)
    assert not torch.equal(sigreg(z, generator=one), first)
    torch.testing.assert_close(sigreg(z.float(), generator=seeded()).double(), first)
    torch.manual_seed(0)
    assert torch.equal(sigreg(z), first)  # torch's own generator


def test_sigreg_ignores_the_order_of_views_and_images_and_rotations_on_average():
    z = views_of_images(4, 20, 8)
    expected = sigreg(z, generator=seeded())
    shuffled = torch.randperm(20, generator=seeded(1))
    other = sigreg(z[[2, 0, 3, 1]][:, shuffled], generator=seeded())
    torch.testing.assert_close(other, expected)
    rotation = torch.linalg.qr(views_of_images(1, 8, 8, seed=1)[0])[0]
    many = {"lambd": 1.0, "directions": 50_000}
    turned = sigreg(z @ rotation, generator=seeded(2), **many)
    torch.testing.assert_close(turned, sigreg(z, generator=seeded(), **many), rtol=2e-2, atol=0)


def test_parts_add_up_to_the_loss():
    z = views_of_images(3, 20, 6).requires_grad_()
    loss, parts = sigreg(z, lambd=0.3, generator=seeded(), return_parts=True)
    assert set(parts) == {"invariance", "normality"}
    assert not any(part.requires_grad or part.dim() for part in parts.values())
    total = 0.7 * parts["invariance"] + 0.3 * 20 * parts["normality"]
    torch.testing.assert_close(loss.detach(), total)


def test_local_views_are_compared_with_the_mean_of_the_global_ones():
    z = views_of_images(1, 16, 6).expand(4, -1, -1).clone()
    z[2] += 1
    z[3] -= 2
    parts = sigreg(z, global_views=2, return_parts=True)[1]
    torch.testing.assert_close(parts["invariance"], torch.tensor((1 + 4) / 4).double())


@pytest.mark.parametrize("lambd", [-0.1, 1.1, float("nan")])
def test_lambd_is_a_share(lambd):
    with pytest.raises(ValueError, match="lambd is the share of a loss term, from 0 to 1, got"):
        sigreg(torch.zeros(2, 8, 4), lambd=lambd)


def test_there_is_a_direction_at_least():
    with pytest.raises(ValueError, match="directions is a number of directions, 1 or more, got 0"):
        sigreg(torch.zeros(2, 8, 4), directions=0)
