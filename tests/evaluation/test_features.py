"""extract_features and create_transform: order, modes, and a model left as it was."""

import copy

import pytest
import timm
import torch
from PIL import Image
from torch import nn

import effssl
from effssl.data import load_source


def model(in_chans=3):
    return effssl.create_model("test_resnet", in_chans=in_chans, img_size=32, projector_dim=8)


def test_features_come_in_order_and_leave_the_model_as_it_was(image_folder):
    source, net = load_source(str(image_folder)), model().train()
    before = copy.deepcopy(net.state_dict())
    features = effssl.extract_features(net, source, batch_size=7)
    assert net.training and features.shape == (24, 96)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    transform = effssl.create_transform(net)
    net.eval()
    with torch.no_grad():
        for i in (0, 6, 7, 23):
            alone = net(transform(source.dataset[i]["image"])[None])[0]
            torch.testing.assert_close(features[i], alone, atol=1e-5, rtol=1e-4)


def test_features_can_be_trained_on(image_folder):
    features = effssl.extract_features(model(), load_source(str(image_folder)))
    head = nn.Linear(96, 2)
    head(features).sum().backward()
    assert head.weight.grad.abs().sum() > 0


def test_the_transform_is_timms_with_the_recorded_input():
    net = model()
    net.set_input(24, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    image = Image.effect_noise((50, 40), 80).convert("RGB")
    config = timm.data.resolve_data_config(pretrained_cfg=net.backbone.pretrained_cfg)
    expected = timm.data.create_transform(**config, is_training=False)(image)
    result = effssl.create_transform(net)(image)
    assert torch.equal(result, expected) and result.shape == (3, 24, 24)
    white = effssl.create_transform(net)(Image.new("RGB", (9, 9), "white"))
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([0.9 / 0.5, 0.8 / 0.6, 0.7 / 0.7]))


@pytest.mark.parametrize("in_chans", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_the_transform_takes_images_of_any_mode(in_chans, mode):
    result = effssl.create_transform(model(in_chans))(Image.new(mode, (40, 60)))
    assert result.shape == (in_chans, 32, 32)
