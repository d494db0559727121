"""Time of random views beside lightly, torchvision and kornia, and beside bare memory passes.

    taskset -c 0 python benchmarks/views.py          the table, one core, under a minute
    python benchmarks/views.py --device cuda         effssl and kornia on a GPU

All make the two views of lightly's BYOLTransform, which equal the preset "imagenet": random resized
crop, flip, jitter, grayscale, blur (1.0 / 0.1), solarization (0.0 / 0.2) and normalization. lightly
takes decoded PIL images and torchvision v2 takes uint8 tensors, one by one; kornia and effssl take
the uint8 batch. "crop" is effssl's crop alone. "memory" reads a view's uint8 pixels and writes them
as float, the least that any implementation has to do.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import tyro
from torch.nn.functional import interpolate
from torchvision.transforms.functional import to_pil_image

from effssl.views import PRESETS, MultiView
from effssl.views._plan import FLIP
from effssl.views._resampling import resized_crops

BLUR, SOLARIZE = (1.0, 0.1), (0.0, 0.2)
MEAN, STD = PRESETS["imagenet"].mean, PRESETS["imagenet"].std


def pictures(images: int, source: int) -> torch.Tensor:
    """Return smooth random uint8 images, (N, 3, source, source)."""
    coarse = torch.rand(images, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = interpolate(coarse, size=(source, source), mode="bicubic")
    return smooth.clamp(0, 1).mul(255).to(torch.uint8)


def effssl_views(batch: torch.Tensor, size: int) -> Callable[[], object]:
    """Return a run of effssl on the batch."""
    multi_view = MultiView("imagenet", views=2, size=size)
    return lambda: multi_view(batch)


def crop_alone(batch: torch.Tensor, size: int) -> Callable[[], object]:
    """Return a run of effssl's crop, without the other operations."""
    n, channels, *shape = batch.shape
    multi_view = MultiView("imagenet", views=2, size=size)
    sizes, starts = torch.tensor([shape]).expand(n, 2), torch.arange(n) * batch[0].numel()

    def run() -> None:
        plan = multi_view.plan(multi_view.draw(n), sizes, starts)
        boxes = plan[: FLIP + 1].long().to(batch.device)
        for part in torch.arange(2 * n).split(n):
            resized_crops(batch.flatten(), plan[:, part], boxes[:, part], channels, size)

    return run


def memory_passes(batch: torch.Tensor, size: int) -> Callable[[], object]:
    """Return a run that only reads and writes the pixels of the views."""
    pixels = batch.new_zeros(len(batch), 3, size, size)
    out = torch.empty(2, *pixels.shape, device=batch.device)
    return lambda: [view.copy_(pixels) for view in out]


def lightly_views(batch: torch.Tensor, size: int) -> Callable[[], object]:
    """Return a run of lightly on each decoded image."""
    from lightly.transforms.byol_transform import (
        BYOLTransform,
        BYOLView1Transform,
        BYOLView2Transform,
    )

    transform = BYOLTransform(BYOLView1Transform(input_size=size), BYOLView2Transform(size))
    decoded = [to_pil_image(image) for image in batch.cpu()]
    return lambda: [transform(image) for image in decoded]


def torchvision_views(batch: torch.Tensor, size: int) -> Callable[[], object]:
    """Return a run of torchvision v2 on each image tensor."""
    from torchvision.transforms import v2

    def one_view(blur: float, solarize: float) -> v2.Transform:
        return v2.Compose(
            [
                v2.RandomResizedCrop(size, antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=blur),
                v2.RandomSolarize(128, p=solarize),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    transforms = [one_view(*p) for p in zip(BLUR, SOLARIZE, strict=True)]
    return lambda: [transform(image) for transform in transforms for image in batch]


def kornia_views(batch: torch.Tensor, size: int) -> Callable[[], object]:
    """Return a run of kornia on the batch."""
    import kornia.augmentation as K

    def one_view(blur: float, solarize: float) -> torch.nn.Module:
        return K.AugmentationSequential(
            # kornia has no antialiasing crop: this one is bilinear
            K.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
            K.RandomGrayscale(p=0.2),
            K.RandomGaussianBlur((23, 23), (0.1, 2.0), p=blur),
            K.RandomSolarize(0.0, 0.0, p=solarize),
            K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
        ).to(batch.device)

    transforms = [one_view(*p) for p in zip(BLUR, SOLARIZE, strict=True)]
    return lambda: [transform(batch.float() / 255) for transform in transforms]


WAYS = {
    "effssl": effssl_views,
    "lightly": lightly_views,
    "torchvision v2": torchvision_views,
    "kornia": kornia_views,
    "crop": crop_alone,
    "memory": memory_passes,
}


def interleaved(
    runs: dict[str, Callable[[], object]], repeats: int, device: str
) -> dict[str, float]:
    """Return median seconds of each run; runs take turns, so that slow phases meet all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if device != "cpu":
                torch.accelerator.synchronize()
            if repeat:  # the first one warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(
    sizes: tuple[int, ...] = (32, 96, 224),
    sources: tuple[int, ...] = (32, 96, 256),
    images: tuple[int, ...] = (64, 64, 16),
    repeats: int = 7,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Print a markdown table of microseconds per view.

    Args:
        sizes: Sides of the views in pixels.
        sources: Side of the images in pixels, for each size.
        images: Batch size, for each size.
        repeats: Number of timed runs.
        threads: Number of CPU threads.
        device: Device of effssl and kornia: cpu, cuda or mps.
    """
    torch.set_num_threads(threads)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{device}, {threads} thread(s)"
    print(f"us per view, median of {repeats}; torch {torch.__version__}, {where}\n")
    print(
        "| views |", *(f"{name} |" for name in WAYS), *(f"{name} x |" for name in list(WAYS)[1:4])
    )
    print("|---|" + "---:|" * (len(WAYS) + 3))
    missing = set()
    for size, source, n in zip(sizes, sources, images, strict=True):
        batch, runs = pictures(n, source).to(device), {}
        for name, way in WAYS.items():
            try:
                runs[name] = way(batch.cpu() if name == "torchvision v2" else batch, size)
            except ImportError as error:
                missing.add(f"{name} is left out: {error}")
        seconds = interleaved(runs, repeats, device)
        us = {name: 1e6 * value / (2 * n) for name, value in seconds.items()}
        cells = [f"{us[name]:.0f}" if name in us else "-" for name in WAYS]
        cells += [
            f"{us[name] / us['effssl']:.1f}" if name in us else "-" for name in list(WAYS)[1:4]
        ]
        print(f"| {size} px from {source} px |", *(f"{cell} |" for cell in cells), flush=True)
    print("\nColumns with x: multiples of effssl's time.", *sorted(missing), sep="\n")


if __name__ == "__main__":
    tyro.cli(main)
