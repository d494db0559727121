"""simclr: its formula, NT-Xent and its debiased form at two views, blocks, invariances."""

import math

import pytest
import references
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses import _blocks, simclr


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("global_views", [None, 1, 2])
@pytest.mark.parametrize("prior", [0.0, 0.1, 0.7])
def test_simclr_matches_its_formula(views, global_views, prior):
    z = views_of_images(views, 7, 5)

    def expected(z):
        return references.simclr(z, 0.3, prior, global_views)

    def loss(z):
        return simclr(z, temperature=0.3, positive_prior=prior, global_views=global_views)

    expected, slopes = value_and_gradient(expected, z)
    value, gradient = value_and_gradient(loss, z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, slopes) <= 1e-12


def test_two_views_are_nt_xent_of_the_authors_code():
    z = views_of_images(2, 24, 6)
    expected, slopes = value_and_gradient(lambda z: references.nt_xent(z[0], z[1], 0.2), z)
    value, gradient = value_and_gradient(simclr, z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, slopes) <= 1e-12


@pytest.mark.parametrize("prior", [0.05, 0.5, 0.9])
def test_two_views_with_a_prior_are_the_debiased_loss_of_the_authors_code(prior):
    z = torch.nn.functional.normalize(views_of_images(2, 24, 6), dim=-1)
    expected = references.debiased_of_two(z[0], z[1], 0.5, prior)
    torch.testing.assert_close(simclr(z, temperature=0.5, positive_prior=prior), expected)


def test_two_views_are_the_loss_of_lightly():
    lightly = pytest.importorskip("lightly.loss")
    z = views_of_images(2, 24, 6).float()
    theirs = lightly.NTXentLoss(temperature=0.3)
    expected, slopes = value_and_gradient(lambda z: theirs(z[0], z[1]), z)
    value, gradient = value_and_gradient(lambda z: simclr(z, temperature=0.3), z)
    assert relative_difference(value, expected) <= 1e-5
    assert relative_difference(gradient, slopes) <= 1e-5


@pytest.mark.parametrize("prior", [0.0, 0.2])
def test_the_gradient_is_that_of_finite_differences(prior):
    z = views_of_images(3, 5, 4).requires_grad_()
    loss = lambda z: simclr(z, temperature=0.5, positive_prior=prior)  # noqa: E731
    assert torch.autograd.gradcheck(loss, z)


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_blocks_of_rows_change_nothing(rows, monkeypatch):
    z = views_of_images(3, 7, 5)
    value, gradient = value_and_gradient(simclr, z)
    monkeypatch.setattr(_blocks, "BLOCK_ELEMENTS", rows * 3 * 7)
    other, other_gradient = value_and_gradient(simclr, z)
    torch.testing.assert_close(other, value)
    torch.testing.assert_close(other_gradient, gradient)


def test_memory_does_not_grow_with_the_square_of_the_rows(monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK_ELEMENTS", 4096)
    largest = []
    matmul = torch.Tensor.__matmul__

    def watched(a, b):
        found = matmul(a, b)
        largest.append(found.numel())
        return found

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    value_and_gradient(simclr, views_of_images(2, 300, 8))
    assert max(largest) <= 600 * 8


@pytest.mark.parametrize("temperature", [0.005, 0.05, 5.0])
@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("dim", [8, 64])  # in 64 dimensions no two images are near
def test_float32_is_that_of_float64_at_any_temperature(temperature, prior, dim):
    z = views_of_images(3, 40, dim)
    loss = lambda z: simclr(z, temperature=temperature, positive_prior=prior)  # noqa: E731
    expected, slopes = value_and_gradient(loss, z)
    value, gradient = value_and_gradient(loss, z.float())
    assert value.isfinite() and gradient.isfinite().all()
    assert relative_difference(value, expected) <= 1e-4
    assert relative_difference(gradient, slopes) <= 1e-3


def test_simclr_ignores_rotations_lengths_of_rows_and_the_order_of_views_and_images():
    z = views_of_images(4, 20, 8)
    expected = simclr(z)
    rotation = torch.linalg.qr(views_of_images(1, 8, 8, seed=1)[0])[0]
    torch.testing.assert_close(simclr(z @ rotation), expected)
    lengths = views_of_images(4, 20, 1, seed=2).abs() + 0.1
    torch.testing.assert_close(simclr(z * lengths), expected)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(simclr(z[[2, 0, 3, 1]][:, shuffled]), expected)
    assert (simclr(z + 1) - expected).abs() > 1e-3


@pytest.mark.parametrize("views", [2, 4])
def test_orthonormal_images_whose_views_agree_have_the_value_computed_by_hand(views):
    z = torch.eye(6).double().expand(views, -1, -1)
    value, parts = simclr(z, temperature=0.5, return_parts=True)
    assert value == pytest.approx(math.log(1 + views * 5 * math.exp(-2)))
    assert parts["invariance"] == pytest.approx(0, abs=1e-12)
    assert parts["uniformity"] == pytest.approx(math.exp(-2))


def test_parts_are_means_of_cosines_and_of_what_negatives_add():
    z = views_of_images(3, 6, 5).requires_grad_()
    loss, parts = simclr(z, temperature=0.4, return_parts=True)
    assert loss.requires_grad and not any(part.requires_grad for part in parts.values())
    unit = torch.nn.functional.normalize(z.detach(), dim=-1)
    cosines = torch.einsum("vnd,umd->vnum", unit, unit)
    pairs = [cosines[v, n, w, n] for v in range(3) for w in range(3) if v != w for n in range(6)]
    torch.testing.assert_close(parts["invariance"], 1 - torch.stack(pairs).mean())
    others = [
        torch.exp((cosines[v, n, u, m] - 1) / 0.4)
        for v in range(3)
        for n in range(6)
        for u in range(3)
        for m in range(6)
        if m != n
    ]
    torch.testing.assert_close(parts["uniformity"], torch.stack(others).mean())


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_the_temperature_is_above_0(temperature):
    with pytest.raises(ValueError, match="temperature divides the cosines, above 0, got"):
        simclr(torch.zeros(2, 8, 4), temperature=temperature)


@pytest.mark.parametrize("prior", [-0.1, 1.0, float("nan")])
def test_the_prior_is_a_share_below_1(prior):
    with pytest.raises(ValueError, match="positive_prior is a share, from 0 to below 1, got"):
        simclr(torch.zeros(2, 8, 4), positive_prior=prior)
