"""V random views of every image of a batch, made in batched passes on the images' device."""

from __future__ import annotations

import difflib
import math

import torch
from torch import Tensor

from effssl.views import color
from effssl.views.blur import gaussian_blur
from effssl.views.geometry import crop_boxes, draw_crops, resized_crop
from effssl.views.options import PRESETS, ViewOptions

# Values of the views made at once on the CPU, found by timing: enough to hide the cost of some 100
# calls a chunk, few enough to stay in the last cache. A GPU and a compiled graph take all at once.
CPU_CHUNK = 460_000


class MultiView:
    """Make V random views of every image of a batch.

    A view is a random resized crop and flip in one antialiased resampling, then brightness,
    contrast, saturation and hue in this order, greyscale, Gaussian blur, solarization, and
    normalisation. Every image of every view has parameters of its own. Saturation, hue and
    greyscale apply to 3-channel images only.

    Args:
        options: Name of a preset (``cifar``, ``stl``, ``imagenet``, ``grey``, ``multispectral``)
            or a `ViewOptions`.
        views: Views per image, V.
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
            if options not in PRESETS:
                near = difflib.get_close_matches(options, PRESETS, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(
                    f"unknown preset {options!r}; {hint}presets are {', '.join(PRESETS)}"
                )
            options = PRESETS[options]
        if views < 1 or size < 1:
            raise ValueError(f"views and size must be 1 or more, got {views} and {size}")
        self.options = options
        self.views = views
        self.size = size

    def draw(
        self, n: int, generator: torch.Generator | None = None, *, channels: int = 3
    ) -> dict[str, Tensor]:
        """Draw the parameters of the views of n images on the CPU.

        They do not depend on the sizes of the images, so a process can draw those of the global
        batch and keep the columns of its own images.

        Args:
            n: Number of images, N.
            generator: CPU generator; torch's global one if None.
            channels: Number of channels, C. It matters only where the options say per_channel.

        Returns:
            Tensors whose first two dimensions are (V, N); with per_channel, brightness and
            contrast are (V, N, C).
        """
        o, shape = self.options, (self.views, n)
        draws = draw_crops(shape, o.scale, o.ratio, generator)
        uniform = torch.rand(7, *shape, generator=generator)
        factors = dict(zip(("brightness", "contrast", "saturation"), uniform[1:4], strict=True))
        # what options added later need comes last, and only where they ask for it: views that do
        # without stay those of earlier versions
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
        return draws

    def _per_view(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor([values[v % len(values)] for v in range(self.views)]).unsqueeze(1)

    def apply(
        self, images: Tensor, draws: dict[str, Tensor], sizes: Tensor | None = None
    ) -> Tensor:
        """Make the views that the parameters describe.

        Args:
            images: uint8 in [0, 255] or float in [0, 1], (N, C, H, W).
            draws: What `draw` returned for these N images, on the CPU.
            sizes: Height and width of each image, (N, 2), where images of mixed sizes are padded
                at the bottom and right to one H x W; None if each fills H x W.

        Returns:
            Normalised views on the device of the images, (V, N, C, S, S), float32; float64 of
            float64 images.

        Raises:
            TypeError: If the images are neither uint8 nor float.
        """
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise TypeError(f"images must be uint8 in [0, 255] or float in [0, 1]; {images.dtype}")
        n, channels, height, width = images.shape
        if sizes is None:
            sizes = torch.tensor([[height, width]]).expand(n, 2)
        if channels != 3:
            draws = {k: d for k, d in draws.items() if k not in ("saturation", "hue", "grey")}
        kind = {
            "device": images.device,
            "dtype": torch.float64 if images.dtype == torch.float64 else torch.float32,
        }
        mean, std = (
            torch.tensor(s, **kind).view(-1, 1, 1) for s in self.options.channel_stats(channels)
        )
        in_cache = images.device.type == "cpu" and not torch.compiler.is_compiling()
        chunk = max(1, CPU_CHUNK // (channels * self.size**2)) if in_cache else n
        white = 255 if images.dtype == torch.uint8 else 1
        radius = math.ceil(4 * self.options.sigma[1])  # beyond lie 0.006% of the weights
        shift = mean / std
        result = torch.empty(self.views, n, channels, self.size, self.size, **kind)
        with torch.autocast(images.device.type, enabled=False):
            for v in range(self.views):
                made = result[v].unbind() if in_cache else None
                draw = {name: values[v] for name, values in draws.items()}
                boxes = crop_boxes(draw, sizes, self.options.ratio)
                for rows in _alike(draw).split(chunk):
                    part = {name: values[rows] for name, values in draw.items()}
                    box = tuple(side[rows] for side in boxes)
                    view = resized_crop(images, rows, box, part["flip"], self.size)
                    view = _adjust(view, part, white, radius)
                    view.mul_(1 / std)
                    if in_cache:  # index_copy_ goes value by value on the CPU
                        for row, image in zip(rows.tolist(), view.unbind(), strict=True):
                            torch.sub(image, shift, out=made[row])
                    else:
                        result[v].index_copy_(0, rows.to(images.device), view.sub_(shift))
        return result

    def __call__(self, images, generator: torch.Generator | None = None) -> Tensor:
        """Draw and apply: views of a batch, (V, N, C, S, S), or of one PIL image, (V, C, S, S).

        In ``datasets``: ``with_transform(lambda rows: {"views": [f(i) for i in rows["image"]]})``.
        """
        if isinstance(images, Tensor):
            draws = self.draw(len(images), generator, channels=images.shape[1])
            return self.apply(images, draws)
        from torchvision.transforms.functional import pil_to_tensor

        if images.mode[0] in "IF":  # Pillow's own conversion would clip at 255
            raise ValueError(f"images of mode {images.mode!r}: scale them to 8 bits first")
        if images.mode not in ("L", "RGB", "RGBA"):
            images = images.convert("RGB")
        return self(pil_to_tensor(images).unsqueeze(0), generator).squeeze(1)


def _alike(draw: dict[str, Tensor]) -> Tensor:
    """Order images such that those that need the same operations are neighbours."""
    key = torch.zeros(len(draw["flip"]), dtype=torch.long)
    for name in ("grey", "solarize", "hue", "sigma"):  # the dearest operation counts most
        if name in draw:
            key = 2 * key + (draw[name] != 0)
    return key.argsort(stable=True)


def _adjust(view: Tensor, draw: dict[str, Tensor], white: int, radius: int) -> Tensor:
    """The operations between crop and normalisation, of which those nobody needs are left out.

    Args:
        view: Float pixels in [0, white], (N, C, S, S); overwritten.
        draw: Parameters of these N images, on the CPU.
        white: What becomes 1.
        radius: Reach of the blur in pixels.

    Returns:
        Pixels in [0, 1], (N, C, S, S).
    """

    def needed(name: str, neutral: int = 0) -> bool:
        if name not in draw:
            return False
        return torch.compiler.is_compiling() or bool((draw[name] != neutral).any())

    on_device = {
        name: values.to(view.device, view.dtype if values.is_floating_point() else None)
        for name, values in draw.items()
    }
    shape = view.shape
    if draw["brightness"].ndim == 2:
        view = view.flatten(0, 1).unsqueeze(1)  # each channel as an image
    view = color.adjust_brightness_(view, on_device["brightness"] / white)
    if needed("contrast", neutral=1):
        view = color.adjust_contrast_(view, on_device["contrast"])
    view = view.view(shape)
    if needed("saturation", neutral=1):
        view = color.adjust_saturation_(view, on_device["saturation"])
    if needed("hue"):
        view = color.adjust_hue_(view, on_device["hue"])
    if needed("grey"):
        view = color.grey_out_(view, on_device["grey"])
    if needed("sigma"):
        view = gaussian_blur(view, on_device["sigma"], radius)
    if needed("solarize"):
        view = color.solarize_(view, on_device["solarize"])
    return view
