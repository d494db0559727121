"""Losses of global and local views: which pairs count."""

from functools import partial

import pytest
import references
import torch
from references import relative_difference, value_and_gradient, views_of_images

from effssl.losses import _gram as gram
from effssl.losses import barlow_twins, create_loss, spectral, vicreg

WEIGHTS = (25.0, 15.0, 2.0)
WEIGHED = dict(zip(("invariance", "variance", "covariance"), WEIGHTS, strict=True))
LOSSES = {
    "bt": partial(barlow_twins, lambd=0.03),
    "bt mean": partial(barlow_twins, lambd=0.03, multiview="mean"),
    "vicreg": partial(vicreg, **WEIGHED),
    "spectral": partial(spectral, beta=0.7),
}
REFERENCES = {
    "bt": lambda z, g: references.barlow_twins_pairs(z, 0.03, g),
    "bt mean": lambda z, g: references.barlow_twins_mean(z, 0.03, g),
    "vicreg": lambda z, g: references.vicregl_global_loss(z, WEIGHTS, g),
    "spectral": lambda z, g: references.spectral(z, 0.7, g),
}


@pytest.fixture(params=[True, False], ids=["gram", "direct"])
def form(request, monkeypatch):
    monkeypatch.setattr(gram, "gram_is_cheaper", lambda **shape: request.param)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("views, global_views", [(2, 1), (3, 2), (4, 1), (8, 2), (8, 5), (8, 7)])
@pytest.mark.parametrize("images, dim", [(24, 6), (12, 50)])
def test_a_loss_with_global_views_matches_its_formula(form, name, views, global_views, images, dim):
    z = views_of_images(views, images, dim)
    expected, expected_gradient = value_and_gradient(lambda z: REFERENCES[name](z, global_views), z)
    value, gradient = value_and_gradient(partial(LOSSES[name], global_views=global_views), z)
    assert relative_difference(value, expected) <= 1e-12
    assert relative_difference(gradient, expected_gradient) <= 1e-12


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("views", [2, 5])
def test_with_all_views_global_every_pair_counts(form, name, views):
    z = views_of_images(views, 16, 12)
    value, gradient = value_and_gradient(LOSSES[name], z)
    found, found_gradient = value_and_gradient(partial(LOSSES[name], global_views=views), z)
    assert torch.equal(found, value) and torch.equal(found_gradient, gradient)


@pytest.mark.parametrize("name", ["bt", "vicreg", "spectral"])
def test_one_local_view_leaves_every_pair(name):
    z = views_of_images(4, 16, 12)
    torch.testing.assert_close(LOSSES[name](z, global_views=3), LOSSES[name](z))


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_global_views_and_that_of_local_views_do_not_matter(name):
    z = views_of_images(6, 16, 12)
    loss = partial(LOSSES[name], global_views=2)
    torch.testing.assert_close(loss(z[[1, 0, 5, 3, 2, 4]]), loss(z))
    assert relative_difference(loss(z[[2, 1, 0, 3, 4, 5]]), loss(z)) > 1e-3


def test_local_views_of_an_image_may_differ_where_each_is_like_the_global_ones():
    z = views_of_images(1, 16, 12).expand(4, -1, -1).clone()
    z[2] += 1
    z[3] -= 1
    _, every = vicreg(z, return_parts=True)
    _, some = vicreg(z, global_views=2, return_parts=True)
    # squared distances of the six pairs: 0, four times 1, and 4 of the two local ones
    torch.testing.assert_close(every["invariance"], torch.tensor(8 / 6, dtype=z.dtype))
    torch.testing.assert_close(some["invariance"], torch.tensor(4 / 5, dtype=z.dtype))


def test_vicreg_is_the_loss_of_vicregl_but_for_its_pairs_of_global_views():
    z = views_of_images(8, 16, 12)
    z[1] = z[0]  # their pair adds nothing, however often it counts
    authors = references.vicregl_global_loss(z, WEIGHTS, 2, each_once=False)
    rest = vicreg(z, **WEIGHED | {"invariance": 0}, global_views=2)
    ours = vicreg(z, **WEIGHED, global_views=2) - rest
    torch.testing.assert_close(authors - rest, ours * 13 / 14)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_pairs_that_do_not_count_take_no_matrix_product(monkeypatch, count):
    products = []
    multiply = torch.mm
    monkeypatch.setattr(
        gram.torch, "mm", lambda *a, **more: products.append(1) or multiply(*a, **more)
    )
    z = views_of_images(8, 6, 5)
    gram.cross_products(z, [6], across=True, global_views=count, gram=False)
    assert len(products) == {1: 7, 2: 13, 8: 28}[count]


def test_fewer_pairs_make_the_direct_form_cheaper():
    shape = {"views": 8, "counts": [700], "dim": 256, "across": True}
    assert gram.gram_is_cheaper(**shape) and not gram.gram_is_cheaper(**shape, global_views=2)


@pytest.mark.parametrize("name", ["bt", "vicreg", "spectral"])
def test_global_views_are_some_of_the_views(name):
    loss = create_loss(name, dim=12, global_views=2)
    z = views_of_images(4, 16, 12)
    assert loss(z) != create_loss(name, dim=12)(z)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=f"from 1 to the 4 views .*; got {wrong}"):
            create_loss(name, dim=12, global_views=wrong)(z)
