"""Views to be made by the fused kernels; as a program, makes them by Triton's interpreter.

    TRITON_INTERPRET=1 python fused_cases.py FILE

The interpreter must be asked for before Triton is imported, so that it needs a process of its own.
"""

import sys
from dataclasses import dataclass, replace

import torch

from effssl.views import PRESETS, MultiView, ViewOptions

# every operation, each on some of the views; all draws at their widest
BOTH = ViewOptions(jitter=0.7, hue=0.5, grey=0.3, blur=(0.5,), sigma=(0.1, 1), solarize=(0.5,))
TURNED = replace(BOTH, vertical_flip=0.5, quarter_turns=True, erase=0.6)
STILL = ViewOptions(scale=(1, 1), ratio=(1, 1), jitter=1, hue=0.5, saturation=0.8, grey=0)


@dataclass(frozen=True)
class Case:
    options: ViewOptions
    channels: int
    size: int
    dtype: torch.dtype = torch.float32
    sides: tuple[int, int] = (10, 50)  # bounds of the heights and widths of the images
    images: int = 2
    views: int = 2
    chunk: int | None = None  # views in the scratch
    saturated: bool = False  # pixels are 0 or 255

    def multi_view(self):
        return MultiView(self.options, views=self.views, size=self.size)

    def inputs(self):
        """A flat buffer with gaps and the plan of views of the images in it."""
        generator = torch.Generator().manual_seed(0)
        sizes = torch.randint(*self.sides, (self.images, 2), generator=generator)
        values = self.channels * sizes.prod(1)
        starts = values.cumsum(0) - values + 7
        levels = torch.randint(0, 256, (int(values.sum()) + 9,), generator=generator)
        if self.saturated:
            levels = (levels > 127) * 255
        multi_view = self.multi_view()
        draws = multi_view.draw(self.images, generator, channels=self.channels)
        plan = multi_view.plan(draws, sizes, starts, channels=self.channels)
        return levels.to(torch.uint8), plan


CASES = {
    "imagenet": Case(PRESETS["imagenet"], 3, 32),
    "every operation": Case(BOTH, 3, 12, images=8),
    "every operation, float16": Case(BOTH, 3, 40, torch.float16),
    "every operation, bfloat16": Case(BOTH, 3, 40, torch.bfloat16),
    "two views at a time": Case(BOTH, 3, 12, images=5, chunk=2),
    "one view at a time": Case(BOTH, 3, 12, images=3, chunk=1),
    "pure colors": Case(STILL, 3, 16, sides=(16, 17), saturated=True),
    "a factor for each channel of three": Case(replace(BOTH, per_channel=True), 3, 20),
    "grey": Case(PRESETS["grey"], 1, 24),
    "two channels": Case(BOTH, 2, 20),
    "four channels": Case(BOTH, 4, 20),
    "multispectral": Case(PRESETS["multispectral"], 5, 20, images=1),
    "thirteen channels, bfloat16": Case(BOTH, 13, 12, torch.bfloat16),
    "eight times smaller": Case(BOTH, 3, 16, sides=(120, 140), views=1),
    "turned and erased": Case(TURNED, 3, 40, images=4),
    "turned and erased, five channels, bfloat16": Case(TURNED, 5, 20, torch.bfloat16),
    "turned only": Case(ViewOptions(quarter_turns=True), 1, 24, images=4),
    "erased only": Case(ViewOptions(erase=1.0), 2, 24),
    "rotated": Case(replace(TURNED, rotate=180), 3, 40, images=4),
    "rotated a little, two views at a time, float16": Case(
        replace(BOTH, rotate=10), 3, 24, torch.float16, images=3, chunk=4
    ),
    "rotated and much smaller": Case(
        replace(TURNED, rotate=45), 1, 16, sides=(120, 140), images=2, views=1
    ),
    "rotated, five channels, bfloat16": Case(
        ViewOptions(rotate=90).over("multispectral"), 5, 20, torch.bfloat16
    ),
    "microscopy": Case(PRESETS["microscopy"], 3, 32),
    "much larger": Case(BOTH, 3, 48, sides=(2, 9), views=1),
    "smaller than the blur": Case(replace(BOTH, blur=(1.0,)), 3, 4, sides=(2, 9)),
    "one pixel": Case(replace(BOTH, blur=(1.0,)), 3, 1, sides=(2, 9)),
}


def main(path):
    from effssl.views import _fused as fused

    torch.set_num_threads(1)
    made, most = {}, fused.SCRATCH_BYTES
    for name, case in CASES.items():
        pixels, plan = case.inputs()
        bytes_ = (4 if case.dtype == torch.float32 else 2) * case.channels * case.size**2
        fused.SCRATCH_BYTES = most if case.chunk is None else case.chunk * bytes_
        wide = torch.cat([torch.zeros_like(plan), plan], dim=1)  # of a step in micro-batches
        made[name] = fused.render(
            pixels,
            plan,
            wide[:, plan.shape[1] :],
            case.multi_view().options,
            channels=case.channels,
            size=case.size,
            dtype=case.dtype,
        )
    torch.save(made, path)


if __name__ == "__main__":
    main(sys.argv[1])
