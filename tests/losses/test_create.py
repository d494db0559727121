"""create_loss: names, bound weights, errors."""

import pytest
import torch
from references import views_of_images

from effssl.losses import barlow_twins, create_loss, spectral, vicreg


def test_create_loss_binds_the_weights_of_the_width():
    z = views_of_images(3, 16, 256)
    assert create_loss("bt", dim=256)(z) == barlow_twins(z, lambd=0.02)
    assert create_loss("bt", dim=256, multiview="mean")(z) == barlow_twins(
        z, lambd=0.02, multiview="mean"
    )
    assert create_loss("vicreg", dim=256)(z) == vicreg(z, invariance=25, variance=25, covariance=1)
    assert create_loss("spectral", dim=256)(z) == spectral(z, beta=1)


def test_a_weight_that_is_given_is_the_one_of_the_loss():
    z = views_of_images(3, 16, 256)
    assert create_loss("bt", dim=256, weight=0.5)(z) == barlow_twins(z, lambd=0.5)
    assert create_loss("vicreg", dim=256, weight=7)(z) == vicreg(z, invariance=7, variance=7)
    assert create_loss("spectral", dim=256, weight=0.25)(z) == spectral(z, beta=0.25)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        create_loss("bt", dim=256, weight=-1)


@pytest.mark.parametrize("name", ["bt", "vicreg", "spectral"])
def test_losses_without_weights_take_those_of_the_width(name):
    z = views_of_images(2, 16, 96)
    function = {"bt": barlow_twins, "vicreg": vicreg, "spectral": spectral}[name]
    loss, parts = create_loss(name, dim=96)(z, return_parts=True)
    assert function(z) == loss
    assert function(z, return_parts=True)[1] == parts


def test_create_loss_names_the_nearest_loss():
    with pytest.raises(ValueError, match="unknown loss 'vicregg'; did you mean 'vicreg'"):
        create_loss("vicregg", dim=8)
    with pytest.raises(ValueError, match="unknown loss 'xyz'; the losses are bt, vicreg, spectral"):
        create_loss("xyz", dim=8)


def test_create_loss_rejects_a_width_below_one():
    with pytest.raises(ValueError, match="1 or more, got 0"):
        create_loss("bt", dim=0)


@pytest.mark.parametrize("name", ["bt", "vicreg", "spectral"])
def test_create_loss_rejects_a_multi_view_form_that_a_loss_has_not(name):
    with pytest.raises(ValueError, match="'all'"):
        create_loss(name, dim=8, multiview="all")
    if name != "bt":
        with pytest.raises(ValueError, match=f"multiview mean is for the loss bt; {name} has"):
            create_loss(name, dim=8, multiview="mean")


def test_the_created_loss_trains():
    z = torch.randn(2, 8, 4, requires_grad=True)
    for name in ("bt", "vicreg", "spectral"):
        (gradient,) = torch.autograd.grad(create_loss(name, dim=4)(z), z)
        assert gradient.norm() > 0
