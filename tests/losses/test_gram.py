"""gram: both forms are equal, and the choice between them follows the cost."""

import pytest
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses._gram import cross_products, gram_is_cheaper


def weighted(z, *, across, gram):
    """A scalar whose gradient has both outputs in it."""
    diagonals, squares = cross_products(z, [z.shape[1]], across=across, gram=gram)
    slopes = torch.linspace(-1, 1, diagonals.numel(), dtype=z.dtype)
    return (diagonals.flatten() * slopes).sum() + 0.01 * squares


@pytest.mark.parametrize(
    "across, views", [(True, 2), (True, 3), (True, 8), (False, 1), (False, 2), (False, 8)]
)
@pytest.mark.parametrize("images, dim", [(30, 7), (7, 30)])
def test_the_gram_form_equals_the_direct_form(across, views, images, dim):
    z = views_of_images(views, images, dim)
    gram, gram_gradient = value_and_gradient(lambda z: weighted(z, across=across, gram=True), z)
    direct, direct_gradient = value_and_gradient(
        lambda z: weighted(z, across=across, gram=False), z
    )
    assert relative_difference(gram, direct) <= 1e-12
    assert relative_difference(gram_gradient, direct_gradient) <= 1e-12


@pytest.mark.parametrize("gram", [True, False])
def test_products_are_those_of_the_views(gram):
    z = views_of_images(3, 9, 5)
    diagonals, squares = cross_products(z, [9], across=True, gram=gram)
    matrices = [z[0].T @ z[1], z[0].T @ z[2], z[1].T @ z[2]]
    torch.testing.assert_close(diagonals, torch.stack([c.diagonal() for c in matrices]))
    torch.testing.assert_close(squares, sum(c.square().sum() for c in matrices))

    diagonals, squares = cross_products(z, [9], across=False, gram=gram)
    matrices = [view.T @ view for view in z]
    torch.testing.assert_close(diagonals, torch.stack([c.diagonal() for c in matrices]))
    torch.testing.assert_close(squares, sum(c.square().sum() for c in matrices))


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("across", [True, False])
def test_the_gradient_of_products_is_that_of_finite_differences(gram, across):
    z = views_of_images(3, 6, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: cross_products(z, [6], across=across, gram=gram), z)


@pytest.mark.parametrize("views, across, limit", [(2, True, 192), (8, True, 1344), (4, False, 256)])
def test_one_process_takes_the_gram_form_below_the_images_at_which_both_cost_the_same(
    views, across, limit
):
    for images, expected in [(limit - 1, True), (limit, False), (limit + 1, False)]:
        chosen = gram_is_cheaper(views=views, counts=[images], dim=256, across=across)
        assert chosen is expected


def test_many_processes_take_the_form_that_sends_less():
    # 1792 images: the direct form computes less; the Gram form sends 2 x 1792 x 2048 floats where
    # the direct form sends 2 x 2048 x 2048
    assert not gram_is_cheaper(views=2, counts=[1792], dim=2048, across=True)
    assert gram_is_cheaper(views=2, counts=[28] * 64, dim=2048, across=True)
    assert not gram_is_cheaper(views=2, counts=[40] * 64, dim=2048, across=True)


def test_uneven_processes_choose_by_all_their_images():
    for counts in ([1000, 1, 1], [334, 334, 334]):
        assert gram_is_cheaper(views=2, counts=counts, dim=2048, across=True)
