"""extract_features and create_transform: order, modes, and a model left as it was."""

import copy

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

import effssl
from effssl.data import load_source
from effssl.data._decode import open_image
from effssl.views.options import ViewOptions


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
            image = open_image(source.dataset[i]["image"], 3)
            alone = net(transform(image)[None])[0]
            torch.testing.assert_close(features[i], alone, atol=1e-5, rtol=1e-4)


def test_features_are_timms_to_the_bit_unless_another_precision_is_asked_for(image_folder):
    source, net = load_source(str(image_folder)), model().eval()
    with torch.no_grad():
        images = [open_image(row["image"], 3) for row in source.dataset]
        transform = timm.data.create_transform(
            **timm.data.resolve_data_config(pretrained_cfg=net.backbone.pretrained_cfg)
        )
        expected = net.backbone(torch.stack([transform(image) for image in images]))
    assert torch.equal(effssl.extract_features(net, source), expected)
    for precision in ("bf16", "fp16"):
        found = effssl.extract_features(net, source, precision=precision)
        assert found.dtype == torch.float32 and not torch.equal(found, expected)
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="unknown precision 'fp64'"):
        effssl.extract_features(net, source, precision="fp64")


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


@pytest.mark.parametrize("in_chans", [2, 3, 6])
def test_the_transform_takes_pixels_of_any_number_of_channels(in_chans):
    net = model(in_chans)
    mean, std = [0.1 * (i + 1) for i in range(in_chans)], [0.5] * in_chans
    net.set_input(24, mean, std)
    transform = effssl.create_transform(net)
    pixels = torch.arange(in_chans, dtype=torch.uint8)[:, None, None].expand(in_chans, 40, 60) * 20
    result = transform(pixels)
    expected = (torch.arange(in_chans) * 20 / 255 - torch.tensor(mean)) / 0.5
    torch.testing.assert_close(result, expected[:, None, None].expand(in_chans, 24, 24))
    assert torch.equal(transform(pixels.numpy().copy()), result)
    with pytest.raises(ValueError, match=rf"float32 pixels .*\({in_chans}, H, W\) are wanted"):
        transform(pixels / 255)
    with pytest.raises(ValueError, match=r"shape \(7, 40, 60\)"):
        transform(np.zeros((7, 40, 60), np.uint8))


def test_pixels_are_transformed_as_images_are():
    net = model()
    image = Image.effect_noise((50, 40), 60).convert("RGB").resize((200, 160), Image.BICUBIC)
    pixels = np.moveaxis(np.array(image), -1, 0)
    difference = effssl.create_transform(net)(image) - effssl.create_transform(net)(pixels)
    assert difference.abs().max() < 0.03  # timm's std is about 0.22, so one grey level is 0.018


def test_features_of_arrays_of_six_channels(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(5):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 256, (6, 20 + i, 30), dtype=np.uint8))
    source, net = load_source(str(tmp_path), in_chans=6), model(6)
    features = effssl.extract_features(net, source, batch_size=2)
    pixels = np.load(tmp_path / "3.npy")
    with torch.no_grad():
        alone = net.eval()(effssl.create_transform(net)(pixels)[None])[0]
    torch.testing.assert_close(features[3], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_and_leaves_the_mode_of_the_model(tmp_path, workers):
    for i in range(3):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    net = model().train()
    with pytest.raises(ValueError) as caught:
        effssl.extract_features(net, load_source(str(tmp_path)), workers=workers)
    assert str(caught.value) == (
        f"{tmp_path}/1.png (row 1): not an image of a known format; features need every image"
    )
    assert net.training


def test_every_module_gets_its_own_mode_back(image_folder):
    net = model().train()
    net.backbone.eval()
    effssl.extract_features(net, load_source(str(image_folder)))
    assert net.training and net.projector.training and not net.backbone.training


def test_a_module_that_does_not_say_its_input_needs_a_transform(image_folder):
    source = load_source(str(image_folder))
    with pytest.raises(ValueError, match="a Flatten does not say what input it takes: give trans"):
        effssl.extract_features(nn.Flatten(), source)
    transform = effssl.create_transform(model(), img_size=8)
    assert effssl.extract_features(nn.Flatten(), source, transform=transform).shape == (24, 192)


def test_views_are_normalised_as_the_model_wants_it(tmp_path):
    for i in range(4):
        Image.effect_noise((32, 32), 30 + 20 * i).convert("RGB").save(tmp_path / f"{i}.png")
    source, net = load_source(str(tmp_path)), model()
    net.set_input(32, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    whole = ViewOptions(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mean=(0.9,), std=(9,))
    views = effssl.MultiView(whole, views=1, size=32)
    found = effssl.extract_features(net, source, views=views)
    torch.testing.assert_close(found, effssl.extract_features(net, source), atol=1e-3, rtol=1e-3)


def test_features_of_a_stream_are_refused(image_folder):
    source = load_source(str(image_folder), streaming=True)
    with pytest.raises(ValueError, match="features need a map-style source"):
        effssl.extract_features(model(), source)
