"""Gaussian blur with a sigma for each image, by products with band matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effssl.views.options import ViewOptions

# Output samples of one product on the CPU, which reads twice the radius more. Smaller blocks mean
# more products, larger ones more zeros. On accelerators one product for all samples is fastest.
CPU_BLOCK = 48


def reach(options: ViewOptions) -> int:
    """Return the radius of the blur in pixels: 4 standard deviations, 99.994 % of the weights."""
    return math.ceil(4 * options.sigma[1])


def gaussian_bands(sigma: Tensor, radius: int, samples: int) -> Tensor:
    """Make matrices that blur ``samples + 2 * radius`` samples to the ``samples`` in the middle.

    Args:
        sigma: Standard deviation for each image in samples, (N,); 0 copies.
        radius: Distance in samples beyond which weights are left out.
        samples: Number of samples of the result.

    Returns:
        Weights, (N, samples, samples + 2 * radius), each row summing to 1.
    """
    distance = torch.arange(-radius, radius + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (distance / sigma.clamp(min=0.01).unsqueeze(1)).square())
    taps = torch.nn.functional.pad(taps / taps.sum(1, keepdim=True), (samples - 1, samples - 1))
    return taps.unfold(1, samples + 2 * radius, 1).flip(1)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int, out: Tensor | None = None) -> Tensor:
    """Blur square images as ``torchvision.transforms.v2.functional.gaussian_blur`` does.

    Args:
        images: Float images, (N, C, S, S).
        sigma: Standard deviation for each image in pixels, (N,); 0 keeps the image.
        radius: Radius of the kernel in pixels; at most S - 1 is used.
        out: Contiguous tensor for the result, which may be the images; a new one if None.

    Returns:
        Blurred images, (N, C, S, S).
    """
    size = images.shape[-1]
    radius = min(radius, size - 1)  # reflection repeats a sample at most once
    block = min(CPU_BLOCK, size) if images.device.type == "cpu" else size
    bands = gaussian_bands(sigma, radius, block)
    spans = []
    for first in range(0, size, block):
        end = min(first + block, size)
        above, below = max(radius - first, 0), max(end + radius - size, 0)
        weights = bands[:, : end - first, : end - first + 2 * radius]
        inside = weights[..., above : weights.shape[-1] - below].clone()
        # weights of samples beyond an edge go to their mirror images inside
        if above:
            inside[..., 1 : above + 1] += weights[..., :above].flip(-1)
        if below:
            inside[..., -below - 1 : -1] += weights[..., -below:].flip(-1)
        spans.append(
            (slice(first, end), slice(first - radius + above, end + radius - below), inside)
        )

    blurred_down = torch.empty_like(images)
    for made, used, weights in spans:
        blurred_down[:, :, made] = weights.unsqueeze(1) @ images[:, :, used]
    # along rows all channels of an image make one product
    blurred = (torch.empty_like(images) if out is None else out).view(len(images), -1, size)
    blurred_down = blurred_down.flatten(1, 2)
    for made, used, weights in spans:
        blurred[..., made] = blurred_down[..., used] @ weights.mT
    return blurred.view(images.shape)
