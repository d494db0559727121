"""Colour operations with a factor for each image, as in ``torchvision.transforms.v2.functional``.

All take and return float images in [0, 1], (N, C, H, W); factors have the shape (N,).
"""

from __future__ import annotations

import torch
from torch import Tensor


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other, images, factor[:, None, None, None]).clamp_(0, 1)


def to_grey(images: Tensor) -> Tensor:
    """Luma (ITU-R 601-2) of RGB images, (N, 1, H, W); the mean of other numbers of channels."""
    if images.shape[1] == 3:
        weights = images.new_tensor([0.2989, 0.587, 0.114])
        return torch.einsum("nchw,c->nhw", images, weights).unsqueeze(1)
    return images.mean(1, keepdim=True)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale by the factor; 1 keeps the image."""
    return (images * factor[:, None, None, None]).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean grey level of the image; 1 keeps it."""
    return _blend(images, to_grey(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend RGB images with their grey version; 1 keeps them."""
    return _blend(images, to_grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of RGB images by a share of the colour circle in [-0.5, 0.5]; 0 keeps them."""
    value, brightest = images.max(1)
    chroma = value - images.min(1).values
    red, green, blue = images.unbind(1)
    spread = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(
        brightest == 0,
        (green - blue) / spread,
        torch.where(brightest == 1, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    sector = sector + 6 * shift[:, None, None]
    # HSV to RGB: channel n is v - c * max(0, min(k, 4 - k, 1)) with k = (n + 6 h) mod 6
    offsets = images.new_tensor([5.0, 3.0, 1.0])[:, None, None]
    k = (offsets + sector.unsqueeze(1)) % 6
    ramp = torch.minimum(k, 4 - k).clamp_(0, 1)
    return (value.unsqueeze(1) - chroma.unsqueeze(1) * ramp).clamp_(0, 1)


def grey_out(images: Tensor, chosen: Tensor) -> Tensor:
    """Replace the chosen RGB images, (N,) bool, by their grey version."""
    return torch.where(chosen[:, None, None, None], to_grey(images), images)
