"""Names of models: they print as they parse, and what is none is named."""

import pytest
import timm

from effssl import PretrainConfig
from effssl.loss_specs import LOSSES
from effssl.naming import ModelName


def test_the_names_of_all_backbones_print_as_they_parse():
    names = timm.list_models() + timm.list_pretrained()[::50]
    assert len(names) > 1000
    for i, backbone in enumerate(names):
        data = [None, "fashion-mnist", "imagenet-1k"][i % 3]
        name = ModelName(backbone, list(LOSSES)[i % len(LOSSES)], 2**i % 8191 + 1, i + 2, data)
        assert ModelName.parse(str(name)) == ModelName.parse(f"org/{name}") == name


def test_a_name_says_what_the_configuration_does():
    config = PretrainConfig(backbone="resnet50", loss="vicreg", projector_dim=512, views=8)
    assert ModelName.parse(config.name) == ModelName("resnet50", "vicreg", 512, 8)
    assert ModelName.parse("org/resnet50-bt-p256-aug4").timm_tag == "barlow_p256_aug4"
    name = ModelName.parse("resnet50-spectral-p64-aug2-fashion-mnist")
    assert name.data == "fashion-mnist" and name.timm_tag == "spectral_p64_aug2_fashion_mnist"


@pytest.mark.parametrize(
    "name",
    [
        *("resnet50", "resnet50-bt-p256", "resnet50-bt-p0-aug4", "resnet50-swav-p256-aug4"),
        *("resnet50-bt-p256-aug4-", "resnet50-bt-p256-aug4/x y", "-bt-p2-aug2", ""),
    ],
)
def test_what_is_no_name_is_said_to_be_none(name):
    with pytest.raises(ValueError, match="is no model name: names are {backbone}-{loss}-p"):
        ModelName.parse(name)
