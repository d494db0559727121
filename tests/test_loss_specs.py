"""Facts about losses: one record a loss, which names and configurations agree with."""

import inspect
import math
from typing import get_args

import pytest
import torch

from effssl import losses
from effssl.loss_specs import LOSSES, LossName
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
    "dimensions that are all the same": lambda: noise(1, 1000, 1).expand(2, 1000, 8),
}


@pytest.mark.parametrize("spec", LOSSES.values(), ids=LOSSES)
def test_the_scale_of_a_loss_is_what_its_function_gives(spec):
    function = getattr(losses, spec.function)

    def loss(z):
        return function(z, **dict.fromkeys(spec.weights, 3.0), return_parts=True)

    same, parts = loss(STATES["images that are all the same"]())
    assert same.item() == pytest.approx(spec.blank(8, 3.0), rel=1e-3)
    assert parts.keys() == spec.parts.keys()
    for name, scale in spec.parts.items():
        z = STATES[scale.when]()
        z = z / z.flatten(0, 1).std(0).clamp(min=1e-3)  # of unit variance, where it varies
        assert loss(z)[1][name].item() == pytest.approx(scale.value(8), rel=2e-2)
    assert 0.9 <= spec.nothing_from <= 1 and math.isfinite(spec.default_weight(8))


def test_a_sentence_explains_the_scale_for_the_width_and_weight_of_a_run():
    assert LOSSES["bt"].explain(256, 0.02) == (
        "Barlow Twins is 256 where nothing is learned, and lower is better; its parts are 0 at "
        "best, invariance 1 for unrelated views, redundancy 255 for dimensions that are all the "
        "same"
    )
    assert LOSSES["vicreg"].explain(64, 20.0).startswith("VICReg is 19.8 where nothing is learned")
