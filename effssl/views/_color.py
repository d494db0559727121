"""Color operations with a factor for each image, as in ``torchvision.transforms.v2.functional``.

All change float images in [0, 1], (N, C, H, W), in place and return them; factors and choices have
shape (N,). Changes in place keep a chunk of images in the processor's cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601-2, as torchvision rounds it


def _over_pixels(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def to_grey(images: Tensor) -> Tensor:
    """Return the luma (ITU-R 601-2) of RGB images, else the mean over channels: (N, 1, H, W)."""
    if images.shape[1] == 3:
        red, green, blue = images.split(1, dim=1)
        return torch.mul(red, LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return images.mean(1, keepdim=True)


def adjust_brightness_(images: Tensor, factor: Tensor) -> Tensor:
    """Scale by the factor; 1 keeps the image."""
    return images.mul_(_over_pixels(factor)).clamp_(0, 1)


def adjust_contrast_(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean gray level of the image; 1 keeps it."""
    factor = _over_pixels(factor)
    mean = to_grey(images.mean((2, 3), keepdim=True))
    return images.mul_(factor).add_(mean * (1 - factor)).clamp_(0, 1)


def adjust_saturation_(images: Tensor, factor: Tensor) -> Tensor:
    """Blend RGB images with their gray version; 1 keeps them."""
    return images.lerp_(to_grey(images), 1 - _over_pixels(factor)).clamp_(0, 1)


def adjust_hue_(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by a share of the color circle in [-0.5, 0.5]; 0 keeps them."""
    red, green, blue = images.split(1, dim=1)
    brightest = torch.maximum(red, green).maximum(blue)
    darkest = torch.minimum(red, green).minimum(blue)
    chroma = brightest - darkest
    spread = chroma.clamp(min=1e-20)  # for a gray pixel both shares below are 0
    # The hue in sextants, 0 at red, by its distance from red: d up to 1, where red is brightest;
    # 1 + q up to 2, where red is in the middle and d = 1; 3 - d beyond, where red is darkest and
    # q = 1. One formula has all three, and comparisons are slow: d + 3 q - 2 d q.
    d = (green - blue).div_(spread)
    q = (brightest - red).div_(spread)
    distance = d.abs()
    distance.addcmul_(distance, q, value=-2).add_(q, alpha=3)
    hue = distance.copysign_(d).add_(6 * _over_pixels(shift))
    hue.sub_(torch.div(hue, 6).round_(), alpha=6)  # back to [-3, 3]
    # a channel is brightest within 1 of its own hue (0, 2, -2), darkest beyond 2, and linear in
    # between: ||hue - own| - 3| - 1, cut to [0, 1]
    # made on the device: a copy from the host would wait for the device
    own = torch.arange(2, 8, 2, dtype=images.dtype, device=images.device) % 6 - 2
    torch.sub(hue, own.view(3, 1, 1), out=images)
    images.abs_().sub_(3).abs_().sub_(1).clamp_(0, 1)
    return torch.addcmul(darkest, images, chroma, out=images)


def grey_out_(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace the chosen RGB images, (N,) bool, by their gray version."""
    return images.lerp_(to_grey(images), _over_pixels(chosen.to(images.dtype)))


def solarize_(images: Tensor, chosen: Tensor) -> Tensor:
    """Invert the bright half of the pixel values of the chosen images, (N,) bool.

    For pixel values k / 255 this inverts those from the threshold 128 / 255 on.
    """
    inverted = _over_pixels(2 - chosen.to(images.dtype)) - images  # at least 1 if not chosen
    return torch.minimum(images, inverted, out=images)
