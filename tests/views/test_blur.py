"""Gaussian blur: torchvision's, with a sigma for each image."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from effssl.views._blur import gaussian_blur


@pytest.mark.parametrize(("channels", "size"), [(3, 24), (1, 48), (5, 57), (3, 100), (1, 224)])
def test_blur_equals_torchvision(channels, size):
    torch.manual_seed(0)
    images, sigma = torch.rand(4, channels, size, size), torch.tensor([0.1, 0.7, 1.3, 2.0])
    expected = [
        F.gaussian_blur(image, [23, 23], [s.item()] * 2)
        for image, s in zip(images, sigma, strict=True)
    ]
    torch.testing.assert_close(
        gaussian_blur(images, sigma, 8), torch.stack(expected), atol=1e-4, rtol=0
    )


def test_images_smaller_than_the_kernel_are_reflected_as_far_as_they_go():
    images = torch.rand(2, 3, 5, 5)
    expected = F.gaussian_blur(images, [9, 9], [1.5, 1.5])
    torch.testing.assert_close(gaussian_blur(images, torch.full((2,), 1.5), 8), expected)
    assert torch.equal(gaussian_blur(images[..., :1, :1], torch.ones(2), 8), images[..., :1, :1])


def test_sigma_0_keeps_the_image():
    images = torch.rand(2, 3, 64, 64)
    result = gaussian_blur(images, torch.tensor([0.0, 2.0]), 8)
    assert torch.equal(result[0], images[0])
    assert (result[1] - images[1]).abs().max() > 0.1
