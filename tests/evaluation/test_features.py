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


def photos(folder, count, broken):
    """Images of noise, some of which are broken."""
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    for i in broken:
        (folder / f"{i:02}.png").write_bytes(b"no image")
    return load_source(str(folder))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("broken", [[1], [0], [4, 5, 6, 7]], ids=["one", "the first", "a batch"])
def test_broken_images_are_named_and_have_rows_of_nan(tmp_path, workers, broken, caplog):
    net = model().train()
    options = {"batch_size": 4, "workers": workers, "max_broken": 0.5}
    expected = effssl.extract_features(net, photos(tmp_path, 10, []), batch_size=4)
    caplog.clear()
    found = effssl.extract_features(net, photos(tmp_path, 10, broken), **options)
    lost = found.isnan().all(1).nonzero()[:, 0].tolist()
    assert found.shape == (10, 96) and lost == broken and net.training
    whole = [i for i in range(10) if i not in broken]
    torch.testing.assert_close(found[whole], expected[whole], atol=1e-5, rtol=1e-5)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    *named, said = [record.getMessage() for record in warned]
    assert named == [
        f"skipped a broken image: {tmp_path}/{i:02}.png (row {i}): not an image of a known format"
        for i in broken
    ]
    assert said == f"{len(broken)} of 10 images cannot be read: their features are NaN"


def test_a_broken_image_leaves_the_views_of_others_as_they_were(tmp_path):
    net, views = model(), effssl.MultiView("cifar", views=3, size=32)
    options = {"batch_size": 4, "seed": 5}
    every = effssl.evaluation.extract_views(net, photos(tmp_path, 10, []), views, **options)
    source = photos(tmp_path, 10, [2])
    found = effssl.evaluation.extract_views(net, source, views, **options)
    averaged = effssl.extract_features(net, source, views=views, **options)
    whole = [i for i in range(10) if i != 2]
    assert found.shape == every.shape and found[:, 2].isnan().all() and averaged[2].isnan().all()
    torch.testing.assert_close(found[:, whole], every[:, whole], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(averaged[whole], every.mean(0)[whole], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "broken, share, message",
    [
        ([3, 4, 5], 0.2, "3 of the 10 images .* than the 2 that max_broken 0.2 allows: .*03.png"),
        ([7], 0, "1 of the 10 images .* than the 0 that max_broken 0 allows"),
        (range(10), 1, "none of the 10 images can be read: .*00.png"),
        ([1], 2, "max_broken is a share of the images, 0 to 1; got 2"),
    ],
)
def test_too_many_broken_images_end_it_and_leave_the_mode_of_the_model(
    tmp_path, workers, broken, share, message
):
    net, source = model().train(), photos(tmp_path, 10, broken)
    with pytest.raises(ValueError, match=message):
        effssl.extract_features(net, source, max_broken=share, workers=workers)
    with pytest.raises(ValueError, match=message):
        effssl.extract_features(net, source, output=tmp_path / "x.parquet", max_broken=share)
    assert net.training and not (tmp_path / "x.parquet").exists()


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


def test_views_are_normalized_as_the_model_wants_it(tmp_path):
    for i in range(4):
        Image.effect_noise((32, 32), 30 + 20 * i).convert("RGB").save(tmp_path / f"{i}.png")
    source, net = load_source(str(tmp_path)), model()
    net.set_input(32, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    whole = ViewOptions(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mean=(0.9,), std=(9,))
    views = effssl.MultiView(whole, views=1, size=32)
    found = effssl.extract_features(net, source, views=views)
    torch.testing.assert_close(found, effssl.extract_features(net, source), atol=1e-3, rtol=1e-3)


def test_features_of_objects_are_those_of_the_files(image_folder):
    source, net = load_source(str(image_folder)), model()
    expected = effssl.extract_features(net, source)
    files = [image_folder / path for path in source.paths()]
    pictures = [Image.open(file).copy() for file in files]
    arrays = [np.asarray(picture.convert("RGB")) for picture in pictures]
    for data in (image_folder, str(image_folder), files, pictures, source.dataset):
        assert torch.equal(effssl.extract_features(net, data), expected)
    # the transform resizes arrays with another rounding
    found = effssl.extract_features(net, arrays)
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
    gray = effssl.extract_features(model(in_chans=1), pictures)
    assert gray.shape == expected.shape
    with pytest.raises(TypeError, match="is no data set"):
        effssl.extract_features(net, 3)


def test_features_of_a_stream_are_refused(image_folder):
    source = load_source(str(image_folder), streaming=True)
    with pytest.raises(ValueError, match="features need a map-style source"):
        effssl.extract_features(model(), source)
