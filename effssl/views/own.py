"""Views that a function of one's own makes, in the place of `MultiView`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from effssl.own import takes
from effssl.seeding import derived_seed, seeded_generator
from effssl.views.options import DEFAULTS, ViewOptions

_ROWS = ("place", "seed", "batch_size", "height", "width", "start")  # of a plan


class OwnViews:
    """Make V random views of every image by a function.

    The function gets images, uint8 (n, C, H, W) on the device, padded at the bottom and right where
    they differ in size; their heights and widths, (n, 2); and a CPU generator. It returns
    normalized views, float (V, n, C, S, S). They must follow from what it is given, so that runs
    are the same for any number of processes and after a resume; torch's global generator is seeded
    alike, and so are transforms of torchvision.

    Without a parameter ``rows`` it is called with one image at a time, n = 1, and the generator is
    that of the step and of the place of the image in the global batch. With the parameters ``rows``
    and ``batch_size`` it is called with all images of a process, or of a chunk. The generator is
    then the same on every process: draw for ``batch_size`` images and keep the ``rows``, the places
    (n,) of the images in the global batch.

    Args:
        function: The function.
        name: Its name, for errors.
        views: Number of views per image, V.
        size: Side of a view in pixels, S.
        options: Options with the mean and std that the function normalizes by.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        name: str,
        *,
        views: int,
        size: int,
        options: ViewOptions = DEFAULTS,
    ) -> None:
        self.function, self.name = function, name
        self.views, self.size, self.options = views, size, options.over(DEFAULTS)
        self.by_rows = takes(function, "rows")

    def draw(
        self, n: int, generator: torch.Generator | None = None, *, channels: int = 3
    ) -> dict[str, Tensor]:
        """Draw the seed of a global batch; see `MultiView.draw`."""
        seed = torch.randint(2**62, (), generator=generator)
        values = {"place": torch.arange(n), "seed": seed, "batch_size": torch.tensor(n)}
        return {name: value.expand(self.views, n) for name, value in values.items()}

    def plan(
        self, draws: dict[str, Tensor], sizes: Tensor, starts: Tensor, *, channels: int = 3
    ) -> Tensor:
        """Return the plan that `render` takes, (6, V * n) int64; see `MultiView.plan`."""
        values = draws | {"height": sizes[:, 0], "width": sizes[:, 1], "start": starts}
        shape = draws["place"].shape
        return torch.stack([values[name].expand(shape).flatten() for name in _ROWS])

    def render(
        self,
        pixels: Tensor,
        plan: Tensor,
        *,
        channels: int,
        device_plan: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Call the function; see `MultiView.render`.

        Raises:
            ValueError: If it does not return (V, n, C, S, S).
        """
        n = plan.shape[1] // self.views
        if not n:  # all images of this process are broken
            return pixels.new_zeros(self.views, 0, channels, self.size, self.size, dtype=dtype)
        rows, (seed, *_), (batch_size, *_), *boxes = plan[:, :n].tolist()
        images = [
            _bytes(pixels[start : start + channels * h * w]).view(channels, h, w)
            for h, w, start in zip(*boxes, strict=True)
        ]
        devices = [pixels.device] if pixels.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices=devices),
            torch.autocast(pixels.device.type, enabled=False),
        ):
            if self.by_rows:
                generator = torch.Generator().manual_seed(seed)
                torch.manual_seed(seed)
                places = {"rows": torch.tensor(rows), "batch_size": batch_size}
                views = self.function(*_padded(images), generator, **places)
                return self._checked(views, n, channels).to(dtype)
            made = []
            for row, image in zip(rows, images, strict=True):
                torch.manual_seed(derived_seed(seed, "image", row))
                views = self.function(*_padded([image]), seeded_generator(seed, "image", row))
                made.append(self._checked(views, 1, channels).to(dtype))
            return torch.cat(made, dim=1)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Make views of images of one size, uint8 (n, C, H, W); returns (V, n, C, S, S)."""
        n, channels, height, width = images.shape
        sizes = torch.tensor([[height, width]]).expand(n, 2)
        starts = torch.arange(n) * (channels * height * width)
        plan = self.plan(self.draw(n, generator), sizes, starts)
        return self.render(images.flatten(), plan, channels=channels)

    def _checked(self, views: Tensor, n: int, channels: int) -> Tensor:
        wanted = (self.views, n, channels, self.size, self.size)
        found = type(views).__name__
        if isinstance(views, Tensor):
            found = f"{str(views.dtype).removeprefix('torch.')} {tuple(views.shape)}"
            if views.is_floating_point() and tuple(views.shape) == wanted:
                return views
        raise ValueError(
            f"views of one's own, {self.name}, must be a float tensor (V, n, C, S, S) = {wanted}; "
            f"got {found}"
        )


def _bytes(pixels: Tensor) -> Tensor:
    """Return pixels as the function takes them; a run in float64 has converted them."""
    return pixels if pixels.dtype == torch.uint8 else (255 * pixels).round().byte()


def _padded(images: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return images (n, C, H, W), padded with 0, and their sizes (n, 2)."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    if len(sizes.unique(dim=0)) == 1:
        return torch.stack(images), sizes
    batch = images[0].new_zeros(len(images), images[0].shape[0], *sizes.max(0).values.tolist())
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch, sizes
