"""Random views of every image of a batch, computed in batches on the device of the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from effssl.background import BACKGROUND, color_of, on_color
from effssl.views import _eager as eager
from effssl.views import _fallback as fallback
from effssl.views._geometry import draw_crops, draw_erased
from effssl.views._plan import build_plan
from effssl.views.options import DEFAULTS, ViewOptions

if TYPE_CHECKING:
    from PIL import Image


class MultiView:
    """Make V random views of every image of a batch.

    A view is a random resized crop in one antialiased resampling, with rotation, flips and quarter
    turns, then brightness, contrast, saturation and hue in this order, grayscale, Gaussian blur,
    solarization, normalization, and erasing. Every image of every view has its own parameters.
    Saturation, hue and grayscale apply to 3-channel images only.

    Args:
        options: Name of a preset (``cifar``, ``stl``, ``imagenet``, ``grey``, ``multispectral``,
            ``microscopy``, ``aerial``) or a `ViewOptions`; ``ViewOptions(flip=0.0).over("stl")``
            changes a preset.
        views: Number of views per image, V.
        size: Side of a view in pixels, S.

    Raises:
        ValueError: If the preset is unknown, or views or size is below 1.

    Example:
        >>> views = MultiView("cifar", views=4, size=32)
        >>> views(torch.zeros(8, 3, 40, 48, dtype=torch.uint8)).shape
        torch.Size([4, 8, 3, 32, 32])
    """

    def __init__(self, options: str | ViewOptions = "cifar", *, views: int, size: int) -> None:
        if isinstance(options, str):
            options = ViewOptions().over(options)
        if views < 1 or size < 1:
            raise ValueError(f"views and size must be 1 or more, got {views} and {size}")
        self.options = options.over(DEFAULTS)
        self.views = views
        self.size = size

    def draw(
        self, n: int, generator: torch.Generator | None = None, *, channels: int = 3
    ) -> dict[str, Tensor]:
        """Draw the parameters of the views of n images, on the CPU.

        They do not depend on the sizes of the images, so a process can draw the parameters of the
        global batch and keep the columns of its own images.

        Args:
            n: Number of images, N.
            generator: CPU generator; torch's global one if None.
            channels: Number of channels, C; used only by the option per_channel.

        Returns:
            Tensors whose first two dimensions are (V, N); with per_channel, brightness and
            contrast are (V, N, C).
        """
        o, shape = self.options, (self.views, n)
        draws = draw_crops(shape, o.scale, o.ratio, generator)
        uniform = torch.rand(7, *shape, generator=generator)
        factors = dict(zip(("brightness", "contrast", "saturation"), uniform[1:4], strict=True))
        # draws for newer options come last, and only if needed, so that other views stay those of
        # earlier versions
        if o.per_channel:
            drawn = torch.rand(2, *shape, channels, generator=generator)
            factors |= {"brightness": drawn[0], "contrast": drawn[1]}
        jittered = uniform[0] < o.jitter
        for name, values in factors.items():
            half = getattr(o, name)
            low = max(0.0, 1 - half)
            chosen = jittered.unsqueeze(-1) if values.ndim == 3 else jittered
            draws[name] = torch.where(chosen, low + (1 + half - low) * values, 1.0)
        draws["hue"] = torch.where(jittered, o.hue * (2 * uniform[4] - 1), 0.0)
        draws["flip"] = uniform[5] < o.flip
        draws["grey"] = uniform[6] < o.grey
        if any(o.blur):
            chosen, sigma = torch.rand(2, *shape, generator=generator)
            sigma = o.sigma[0] + (o.sigma[1] - o.sigma[0]) * sigma
            draws["sigma"] = torch.where(chosen < self._per_view(o.blur), sigma, 0.0)
        if any(o.solarize):
            uniform = torch.rand(shape, generator=generator)
            draws["solarize"] = uniform < self._per_view(o.solarize)
        if o.vertical_flip:
            draws["vertical_flip"] = torch.rand(shape, generator=generator) < o.vertical_flip
        if o.quarter_turns:
            draws["quarter_turns"] = torch.randint(4, shape, generator=generator)
        if o.rotate:
            draws["angle"] = o.rotate * (2 * torch.rand(shape, generator=generator) - 1)
        if o.erase:
            draws["erased"] = draw_erased(shape, o.erase, self.size, generator)
        return draws

    def _per_view(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor([values[v % len(values)] for v in range(self.views)]).unsqueeze(1)

    def plan(
        self,
        draws: dict[str, Tensor],
        sizes: Tensor,
        starts: Tensor,
        *,
        channels: int = 3,
        stored: Tensor | None = None,
    ) -> Tensor:
        """Turn draws into the plan that `render` takes.

        Args:
            draws: Result of `draw` for these N images.
            sizes: Height and width of each image in pixels, (N, 2).
            starts: Index of each image's first value in the flat buffer of pixels, (N,).
            channels: Number of channels, C.
            stored: Height and width of each image in the buffer, (N, 2), if images are padded at
                the bottom and right; None if they are not padded.

        Returns:
            The plan, (24 + 2 C, V * N) float64 on the CPU; `effssl.views._plan` describes its rows.
        """
        ratio = self.options.ratio
        return build_plan(draws, sizes, starts, ratio, channels=channels, stored=stored)

    def render(
        self,
        pixels: Tensor,
        plan: Tensor,
        *,
        channels: int,
        device_plan: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Compute the views of a plan, without waiting for the device.

        On CUDA, fused kernels compute the views of uint8 pixels, in the memory format
        channels_last. If Triton is missing or cannot build the kernels, a warning is logged once
        and PyTorch operations compute the views.

        Args:
            pixels: Flat buffer of images (C, h, w), each from its start in the plan: uint8, or
                float in [0, 1]. It may hold other images too, as in a cache.
            plan: Result of `plan`, on the CPU.
            channels: Number of channels, C.
            device_plan: The plan on the device of the pixels, for the fused kernels; copied if
                None.
            dtype: Data type of the views. They are computed in float64 from float64 pixels, else
                in float32. For 16-bit views the fused kernels store intermediate pixels in
                float16.

        Returns:
            Normalized views on the device of the pixels, (V, N, C, S, S).

        Raises:
            TypeError: If the pixels are neither uint8 nor float.
        """
        if pixels.dtype != torch.uint8 and not pixels.is_floating_point():
            raise TypeError(f"images must be uint8 in [0, 255] or float in [0, 1]; {pixels.dtype}")
        with torch.autocast(pixels.device.type, enabled=False):
            views = fallback.try_fused(
                pixels,
                plan,
                device_plan,
                self.options,
                channels=channels,
                size=self.size,
                dtype=dtype,
            )
            if views is None:
                views = eager.render(
                    pixels, plan, self.options, channels=channels, size=self.size, dtype=dtype
                )
        return views.view(self.views, plan.shape[1] // self.views, *views.shape[1:])

    def apply(
        self, images: Tensor, draws: dict[str, Tensor], sizes: Tensor | None = None
    ) -> Tensor:
        """Compute the views that drawn parameters describe.

        Args:
            images: uint8 in [0, 255] or float in [0, 1], (N, C, H, W).
            draws: Result of `draw` for these N images, on the CPU.
            sizes: Height and width of each image, (N, 2), if images of mixed sizes are padded at
                the bottom and right to one H x W; None if each fills H x W.

        Returns:
            Normalized views on the device of the images, (V, N, C, S, S), in float32, or float64
            for float64 images.

        Raises:
            TypeError: If the images are neither uint8 nor float.
        """
        n, channels, height, width = images.shape
        stored = torch.tensor([[height, width]]).expand(n, 2)
        starts = torch.arange(n) * (channels * height * width)
        sizes = stored if sizes is None else sizes
        plan = self.plan(draws, sizes, starts, channels=channels, stored=stored)
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        return self.render(images.flatten(), plan, channels=channels, dtype=dtype)

    def __call__(
        self,
        images: Tensor | Sequence[Tensor] | Image.Image,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Compute random views of a batch, (V, N, C, S, S), or of one PIL image, (V, C, S, S).

        A batch is a tensor (N, C, H, W), or a sequence of N images (C, H, W) of any sizes.

        In ``datasets``: ``with_transform(lambda rows: {"views": [f(i) for i in rows["image"]]})``.
        """
        if isinstance(images, Tensor):
            draws = self.draw(len(images), generator, channels=images.shape[1])
            return self.apply(images, draws)
        if isinstance(images, Sequence):
            return self._of_several_sizes(images, generator)
        from torchvision.transforms.functional import pil_to_tensor

        if images.mode[0] in "IF":  # Pillow would clip at 255
            raise ValueError(f"images of mode {images.mode!r}: scale them to 8 bits first")
        if images.mode not in ("L", "RGB", "RGBA"):
            color = color_of(BACKGROUND) if images.has_transparency_data else None
            images = images.convert("RGBA" if color else "RGB")
            images = on_color(images, color) if color else images
        return self(pil_to_tensor(images).unsqueeze(0), generator).squeeze(1)

    def _of_several_sizes(
        self, images: Sequence[Tensor], generator: torch.Generator | None
    ) -> Tensor:
        channels = images[0].shape[0]
        sizes = torch.tensor([image.shape[1:] for image in images])
        values = channels * sizes.prod(1)
        draws = self.draw(len(images), generator, channels=channels)
        plan = self.plan(draws, sizes, values.cumsum(0) - values, channels=channels)
        pixels = torch.cat([image.flatten() for image in images])
        return self.render(pixels, plan, channels=channels)
