"""Facts about losses: one record a loss, which names and configurations agree with."""

import inspect
import math
from typing import get_args

import pytest
import torch

from effssl import losses
from effssl.loss_specs import LOSSES, LossName, Shape
from effssl.naming import ModelName
from effssl.training.config import Preset
from effssl.views.options import PRESETS


def test_the_names_for_type_checkers_are_those_of_the_records():
    assert get_args(LossName) == tuple(LOSSES)
    assert get_args(Preset) == tuple(PRESETS)


def test_every_loss_is_a_public_function_that_takes_what_its_record_says():
    for spec in LOSSES.values():
        parameters = inspect.signature(getattr(losses, spec.function)).parameters
        assert set(spec.weights) <= set(parameters)
        assert ("multiview" in parameters) == (len(spec.multiview) > 1)


def test_names_of_models_take_every_loss_and_tell_the_losses_apart():
    names = [ModelName("resnet18", loss, 64, 4) for loss in LOSSES]
    assert [ModelName.parse(str(name)) for name in names] == names
    assert len({name.timm_tag for name in names}) == len(LOSSES)
    assert len({spec.card_tag for spec in LOSSES.values()}) == len(LOSSES)


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


STATES = {  # projections (2, N, 8) for the words of a scale
    "unrelated views": lambda: noise(2, 100_000, 8),
    "images that are all the same": lambda: noise(1, 1, 8).expand(2, 1000, 8),
    "projections that are all 0": lambda: torch.zeros(2, 1000, 8).double(),
    "dimensions that are all the same": lambda: noise(1, 1000, 1).expand(2, 1000, 8),
}


def shape_of(z, global_views=None):
    return Shape(*z.shape, global_views or len(z))


@pytest.mark.parametrize("spec", LOSSES.values(), ids=LOSSES)
def test_the_scale_of_a_loss_is_what_its_function_gives(spec):
    function = getattr(losses, spec.function)
    weight = min(3.0, spec.most_weight)

    def loss(z):
        return function(z, **dict.fromkeys(spec.weights, weight), return_parts=True)

    zero = spec.name == "sigreg"  # which tells constants apart, and 0 is the best of them
    z = STATES["projections that are all 0" if zero else "images that are all the same"]()
    same, parts = loss(z)
    assert same.item() == pytest.approx(spec.blank(shape_of(z), weight), rel=1e-3)
    assert parts.keys() == spec.parts.keys()
    for name, scale in spec.parts.items():
        z = STATES[scale.when]()
        z = z / z.flatten(0, 1).std(0).clamp(min=1e-3)  # of unit variance, where it varies
        if spec.name == "simclr":
            z = z[:, :1000]  # its time grows with the square of the images
        assert loss(z)[1][name].item() == pytest.approx(scale.value(shape_of(z)), rel=5e-2)
    assert 0.9 <= spec.nothing_from <= 1
    assert math.isfinite(spec.default_weight(8)) == bool(spec.weights)


@pytest.mark.parametrize("name", ["sigreg", "coding_rate"])
def test_the_scale_of_a_part_follows_from_the_global_views(name):
    z, spec = noise(6, 20_000, 64), LOSSES[name]
    _, parts = getattr(losses, spec.function)(z, global_views=2, return_parts=True)
    expected = spec.parts["invariance"].value(shape_of(z, 2))
    assert parts["invariance"].item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("spec", LOSSES.values(), ids=LOSSES)
def test_a_loss_takes_as_few_images_as_its_record_says_and_no_fewer(spec):
    function = getattr(losses, spec.function)
    least = spec.least_images(8)
    assert function(noise(2, least, 8)).isfinite()
    with pytest.raises(ValueError, match=f"got {least - 1}"):
        function(noise(2, least - 1, 8))


def test_a_weight_is_one_of_the_loss():
    with pytest.raises(ValueError, match="the loss wmse has no weight: leave --loss-weight out"):
        LOSSES["wmse"].check_weight(1.0, "--loss-weight")
    with pytest.raises(ValueError, match="lambd of the loss sigreg, 0 to 1, got 1.5"):
        LOSSES["sigreg"].check_weight(1.5, "weight")
    LOSSES["sigreg"].check_weight(1.0, "weight")


def test_a_sentence_explains_the_scale_for_the_width_and_weight_of_a_run():
    assert LOSSES["bt"].explain(Shape(4, 128, 256, 4), 0.02) == (
        "Barlow Twins is 256 where nothing is learned, and lower is better; its parts are 0 at "
        "best, invariance 1 for unrelated views, redundancy 255 for dimensions that are all the "
        "same"
    )
    assert (
        LOSSES["vicreg"]
        .explain(Shape(4, 128, 64, 4), 20.0)
        .startswith("VICReg is 19.8 where nothing is learned")
    )
