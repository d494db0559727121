"""Color operations: torchvision's, with a factor for each image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from effssl.views import _color as color


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_operation_equals_torchvision(name):
    torch.manual_seed(0)
    images = torch.rand(64, 3, 12, 10)
    images[0] = 0.5  # grey: no hue to turn
    images[1, :, 0, 0] = torch.tensor([0.7, 0.7, 0.1])  # a tie for the brightest channel
    factor = torch.rand(64) - 0.5 if name == "hue" else 2 * torch.rand(64)
    expected = [
        getattr(F, f"adjust_{name}")(image, f.item())
        for image, f in zip(images, factor, strict=True)
    ]
    result = getattr(color, f"adjust_{name}_")(images, factor)
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["brightness", "contrast"])
def test_operation_on_one_channel_equals_torchvision(name):
    images, factor = torch.rand(8, 1, 12, 10), 2 * torch.rand(8)
    expected = [
        getattr(F, f"adjust_{name}")(image, f.item())
        for image, f in zip(images, factor, strict=True)
    ]
    result = getattr(color, f"adjust_{name}_")(images, factor)
    torch.testing.assert_close(result, torch.stack(expected), atol=1e-5, rtol=0)


def test_grey_out_replaces_the_chosen_images_alone():
    images = torch.rand(2, 3, 4, 4)
    result = color.grey_out_(images.clone(), torch.tensor([True, False]))
    torch.testing.assert_close(result[0], F.rgb_to_grayscale(images[0], 3), atol=1e-5, rtol=0)
    assert torch.equal(result[1], images[1])


@pytest.mark.parametrize("channels", [1, 3])
def test_solarize_of_every_pixel_value_is_torchvisions_for_the_chosen_images_alone(channels):
    images = torch.arange(256).view(1, 1, 16, 16).expand(2, channels, 16, 16) / 255
    result = color.solarize_(images.clone(), torch.tensor([True, False]))
    expected = F.solarize(images[0], threshold=128 / 255)
    torch.testing.assert_close(result[0], expected, atol=1e-6, rtol=0)
    assert torch.equal(result[1], images[1])
