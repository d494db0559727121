"""barlow_twins: the authors' formula, its multi-view forms, its invariances."""

import pytest
import torch
from references import (
    authors_mean_view_terms,
    barlow_twins_mean,
    barlow_twins_of_two,
    barlow_twins_pairs,
    relative_difference,
    standardized,
    value_and_gradient,
    views_of_images,
)

from effssl.losses import barlow_twins


def assert_equal_to(reference, loss, z, *, tolerance):
    expected, expected_gradient = value_and_gradient(reference, z)
    value, gradient = value_and_gradient(loss, z)
    assert relative_difference(value, expected) <= tolerance
    assert relative_difference(gradient, expected_gradient) <= tolerance


@pytest.mark.parametrize("images, dim", [(512, 64), (16, 200)])
def test_barlow_twins_matches_the_authors_formula_for_two_views(images, dim):
    z = views_of_images(2, images, dim)
    assert_equal_to(
        lambda z: barlow_twins_of_two(z[0], z[1], 0.03),
        lambda z: barlow_twins(z, lambd=0.03),
        z,
        tolerance=1e-12,
    )


def test_barlow_twins_matches_the_authors_formula_at_width_8192():
    z = views_of_images(2, 32, 8192).requires_grad_()
    lambd, block = 0.0051, 128

    expected = 0.0
    for start in range(0, 8192, block):  # a block of rows of C at a time
        rows = slice(start, start + block)
        c = standardized(z[0][:, rows]).T @ standardized(z[1]) / 32
        diagonal = c[:, rows].diagonal()
        off_diagonal = c.square().sum() - diagonal.square().sum()
        part = (diagonal - 1).square().sum() + lambd * off_diagonal
        part.backward()
        expected += part.detach()

    value, gradient = value_and_gradient(lambda z: barlow_twins(z, lambd=lambd), z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, z.grad) <= 1e-12


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("images, dim", [(24, 6), (12, 50)])
def test_barlow_twins_pairs_is_the_mean_over_pairs(views, images, dim):
    assert_equal_to(
        lambda z: barlow_twins_pairs(z, 0.03),
        lambda z: barlow_twins(z, lambd=0.03),
        views_of_images(views, images, dim),
        tolerance=1e-12,
    )


@pytest.mark.parametrize("views", [2, 3, 4, 8])
@pytest.mark.parametrize("images, dim", [(24, 6), (12, 50)])
def test_barlow_twins_mean_matches_its_formula(views, images, dim):
    assert_equal_to(
        lambda z: barlow_twins_mean(z, 0.03),
        lambda z: barlow_twins(z, lambd=0.03, multiview="mean"),
        views_of_images(views, images, dim),
        tolerance=1e-12,
    )


@pytest.mark.parametrize("views", [2, 4, 8])
def test_barlow_twins_mean_is_the_authors_mean_view_form_but_for_the_factor_of_views(views):
    z = 1000 * views_of_images(views, 32, 12)  # so that the epsilon counts for nothing
    _, parts = barlow_twins(z, multiview="mean", return_parts=True)
    on, off = authors_mean_view_terms(z)
    torch.testing.assert_close(parts["invariance"] * 12 * ((views - 1) / views) ** 2, on)
    torch.testing.assert_close(parts["redundancy"] * 12, off)


def test_barlow_twins_mean_and_pairs_have_one_invariance_term_for_two_views():
    z = views_of_images(2, 32, 12)
    _, pairs = barlow_twins(z, return_parts=True)
    _, mean = barlow_twins(z, multiview="mean", return_parts=True)
    torch.testing.assert_close(pairs["invariance"], mean["invariance"])


@pytest.mark.parametrize("multiview", ["pairs", "mean"])
def test_barlow_twins_equal_decorrelated_views_cost_nothing(multiview):
    q, _ = torch.linalg.qr(views_of_images(1, 40, 11)[0])
    columns = torch.cat([torch.ones(40, 1, dtype=q.dtype), q], 1)
    q = torch.linalg.qr(columns)[0][:, 1:] * 1e4  # centered and orthogonal
    loss = barlow_twins(q.expand(3, -1, -1), lambd=1.0, multiview=multiview)
    assert loss.abs() < 1e-10


@pytest.mark.parametrize("multiview", ["pairs", "mean"])
def test_barlow_twins_ignores_the_scale_and_offset_of_a_feature(multiview):
    z = views_of_images(3, 32, 100)
    z = (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)
    scale, offset = torch.linspace(0.9, 4, 100), torch.linspace(-50, 50, 100)
    moved = barlow_twins(z * scale + offset, multiview=multiview)
    # only the epsilon beside the variance differs
    assert relative_difference(moved, barlow_twins(z, multiview=multiview)) <= 3e-6


@pytest.mark.parametrize("multiview", ["pairs", "mean"])
def test_barlow_twins_does_not_depend_on_the_order_of_views_and_images(multiview):
    z = views_of_images(4, 20, 30)
    shuffled = z[[2, 0, 3, 1]][:, torch.randperm(20, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(
        barlow_twins(shuffled, multiview=multiview), barlow_twins(z, multiview=multiview)
    )


@pytest.mark.parametrize("multiview", ["pairs", "mean"])
def test_barlow_twins_parts_add_up_to_the_loss(multiview):
    z = views_of_images(3, 20, 30).requires_grad_()
    loss, parts = barlow_twins(z, lambd=0.2, multiview=multiview, return_parts=True)
    assert set(parts) == {"invariance", "redundancy"}
    assert not any(part.requires_grad or part.dim() for part in parts.values())
    torch.testing.assert_close(
        30 * (parts["invariance"] + 0.2 * parts["redundancy"]), loss.detach()
    )


def test_barlow_twins_rejects_an_unknown_multi_view_form():
    with pytest.raises(ValueError, match="multiview is 'pairs' or 'mean', got 'all'"):
        barlow_twins(torch.randn(2, 4, 3), multiview="all")
