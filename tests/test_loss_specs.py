"""Facts about losses: one record a loss, which names and configurations agree with."""

import inspect
from typing import get_args

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
