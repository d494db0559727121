"""MultiView: shapes, what its randomness depends on, padding, presets, errors."""

from typing import get_args

import pytest
import torch
from PIL import Image

from effssl import MultiView
from effssl.training.config import Preset
from effssl.views import PRESETS, ViewOptions


def images(n=6, channels=3, height=20, width=24):
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_views_have_the_shape_and_about_the_scale_of_normalized_pixels(preset, channels):
    result = MultiView(preset, views=3, size=16)(images(channels=channels))
    assert result.shape == (3, 6, channels, 16, 16) and result.dtype == torch.float32
    assert result.isfinite().all() and 0.1 < result.std() < 3


def test_a_pil_image_gives_its_views():
    assert MultiView("cifar", views=2, size=8)(Image.new("RGB", (30, 20))).shape == (2, 3, 8, 8)


def test_without_randomness_a_view_is_the_normalized_image():
    still = ViewOptions(
        scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mean=(0.25,), std=(0.5,)
    )
    pixels = images(height=16, width=16)
    views = MultiView(still, views=2, size=16)(pixels)
    torch.testing.assert_close(views[0], (pixels / 255 - 0.25) / 0.5)
    assert torch.equal(views[0], views[1])


def test_autocast_does_not_coarsen_the_views():
    pixels = images(height=64, width=64)
    for size in (16, 64):
        multi_view = MultiView("imagenet", views=2, size=size)
        expected = multi_view(pixels, torch.Generator().manual_seed(0))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(multi_view(pixels, torch.Generator().manual_seed(0)), expected)


def test_uint8_and_float_images_give_the_same_views():
    multi_view, pixels = MultiView("cifar", views=2, size=16), images()
    a = multi_view(pixels, torch.Generator().manual_seed(0))
    b = multi_view(pixels / 255, torch.Generator().manual_seed(0))
    torch.testing.assert_close(a, b)


def test_a_slice_of_the_draws_gives_that_slice_of_the_views():
    multi_view, pixels = MultiView("cifar", views=2, size=16), images()
    draws = multi_view.draw(6, torch.Generator().manual_seed(0))
    part = multi_view.apply(pixels[2:5], {k: d[:, 2:5] for k, d in draws.items()})
    torch.testing.assert_close(part, multi_view.apply(pixels, draws)[:, 2:5], atol=1e-5, rtol=0)


def test_padding_does_not_show():
    multi_view, pixels = MultiView("grey", views=4, size=16), images()
    draws = multi_view.draw(6, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(pixels, (0, 9, 0, 5), value=255)
    sizes = torch.tensor([[20, 24]]).expand(6, 2)
    torch.testing.assert_close(
        multi_view.apply(padded, draws, sizes), multi_view.apply(pixels, draws), atol=1e-5, rtol=0
    )


def test_every_image_of_every_view_has_its_own_parameters():
    draws = MultiView("cifar", views=3, size=8).draw(50, torch.Generator().manual_seed(0))
    assert draws["position"].flatten(0, 1).unique(dim=0).shape[0] == 150
    assert draws["brightness"].unique().numel() > 100
    for name, share in {"flip": 0.5, "grey": 0.2}.items():
        assert abs(draws[name].float().mean() - share) < 0.12
    assert abs((draws["hue"] != 0).float().mean() - 0.8) < 0.1


def test_the_configuration_offers_every_preset():
    assert set(get_args(Preset)) == set(PRESETS)


def test_bad_arguments_say_what_is_allowed():
    with pytest.raises(ValueError, match="unknown preset 'cifra'; did you mean 'cifar'"):
        MultiView("cifra", views=2, size=8)
    with pytest.raises(ValueError, match="views and size must be 1 or more, got 0 and 8"):
        MultiView("cifar", views=0, size=8)


@pytest.mark.gpu
@pytest.mark.parametrize("preset", ["imagenet", "multispectral"])
@pytest.mark.parametrize("size", [16, 64])
def test_views_on_the_gpu_are_those_of_the_cpu(preset, size):
    multi_view, pixels = MultiView(preset, views=2, size=size), images() / 255
    draws = multi_view.draw(6, torch.Generator().manual_seed(0))
    on_gpu = multi_view.apply(pixels.cuda(), draws).cpu()
    torch.testing.assert_close(on_gpu, multi_view.apply(pixels, draws), atol=1e-3, rtol=0)


def test_a_transparent_picture_is_laid_on_white():
    whole = ViewOptions(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grey=0, mean=(0,), std=(1,))
    views = MultiView(whole, views=1, size=16)
    nothing = Image.new("LA", (16, 16), (0, 0))
    palette = Image.new("P", (16, 16))
    palette.info["transparency"] = 0
    for picture in (nothing, palette):
        assert views(picture).shape == (1, 3, 16, 16) and views(picture).min() > 0.999
    assert views(Image.new("P", (16, 16))).max() < 0.001


def test_a_list_of_images_of_several_sizes_is_a_batch_as_padded_ones_are():
    images = [torch.randint(256, (3, 20 + i, 31 - 2 * i)).byte() for i in range(4)]
    padded = torch.zeros(4, 3, 23, 31, dtype=torch.uint8)
    for place, image in zip(padded, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    sizes = torch.tensor([image.shape[1:] for image in images])
    multi_view = MultiView("imagenet", views=3, size=16)
    draws = multi_view.draw(4, torch.Generator().manual_seed(3))
    expected = multi_view.apply(padded, draws, sizes)
    found = multi_view(images, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
