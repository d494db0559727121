"""Crops: the boxes and the pixels of torchvision."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from effssl.views._geometry import crop_boxes, draw_crops
from effssl.views._plan import FACTORS, FLIP, HEIGHT, START, TOP, WIDTH
from effssl.views._resampling import LARGEST_BY_MATRICES, _crop_places, _crops, resized_crops

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(
    ("channels", "height", "width", "size"),
    [(3, 40, 50, 32), (1, 28, 28, 32), (4, 37, 90, 16), (3, 70, 90, 64), (5, 100, 60, 64)],
)
def test_resized_crop_equals_torchvision_with_antialiasing(dtype, channels, height, width, size):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (32, channels, height, width)).to(dtype)
    rows = torch.randperm(32)[:20]
    draws = draw_crops((20,), SCALE, RATIO, None)
    boxes = crop_boxes(draws, torch.tensor([[height, width]]).expand(20, 2), RATIO)
    flip = torch.rand(20) < 0.5
    expected = []
    for i, row in enumerate(rows):
        box = [int(side[i]) for side in boxes]
        crop = F.resized_crop(images[row], *box, [size, size], antialias=True)
        expected.append(crop.flip(-1) if flip[i] else crop)
    plan = torch.zeros(FACTORS, 20, dtype=torch.float64)
    plan[START], plan[HEIGHT], plan[WIDTH] = rows * images[0].numel(), height, width
    plan[TOP:FLIP], plan[FLIP] = torch.stack(boxes), flip
    result = resized_crops(images.flatten(), plan, plan[: FLIP + 1].long(), channels, size)
    assert result.dtype == torch.float32
    # of uint8 torchvision rounds either axis, the matrices round none; all else is exact
    atol = 1.01 if dtype == torch.uint8 and size <= LARGEST_BY_MATRICES else 1e-3
    torch.testing.assert_close(result, torch.stack(expected).float(), atol=atol, rtol=0)


def test_crops_of_images_of_mixed_sizes_come_out_of_the_buffer_by_strides_and_by_places():
    torch.manual_seed(0)
    sizes = torch.randint(5, 30, (12, 2))
    values = 3 * sizes.prod(1)
    starts = values.cumsum(0) - values + 7
    pixels = torch.randint(0, 256, (int(values.sum()) + 9,), dtype=torch.uint8)
    boxes = torch.stack(crop_boxes(draw_crops((12,), SCALE, RATIO, None), sizes, RATIO))
    plan = torch.cat([starts[None], sizes.T, boxes, torch.zeros(1, 12, dtype=torch.long)])
    height, width = boxes[2:].amax(1).tolist()
    placed = pixels[_crop_places(plan, 3, height, width)]
    for i, crop in enumerate(_crops(pixels, plan, 3)):
        image = pixels[starts[i] : starts[i] + values[i]].view(3, *sizes[i])
        top, left, h, w = boxes[:, i].tolist()
        assert torch.equal(crop[0], image[:, top : top + h, left : left + w])
        assert torch.equal(placed[i, :, :h, :w], crop[0])


def test_crop_boxes_lie_inside_images_of_any_size():
    torch.manual_seed(0)
    sizes = torch.randint(1, 60, (2000, 2))
    top, left, height, width = crop_boxes(draw_crops((2000,), SCALE, RATIO, None), sizes, RATIO)
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= sizes[:, 0]).all() and (left + width <= sizes[:, 1]).all()


def test_an_image_too_narrow_for_any_crop_gives_the_largest_centered_one():
    draws = draw_crops((1,), (1.0, 1.0), RATIO, None)
    boxes = crop_boxes(draws, torch.tensor([[10, 100]]), RATIO)
    assert [int(side) for side in boxes] == [0, 44, 10, 13]  # 13 = round(10 * 4 / 3)


def test_crop_boxes_are_distributed_as_torchvision_draws_them():
    torch.manual_seed(0)
    n, size = 4000, 64
    sizes = torch.tensor([[size, size]]).expand(n, 2)
    _, left, height, width = crop_boxes(draw_crops((n,), SCALE, RATIO, None), sizes, RATIO)
    reference = v2.RandomResizedCrop(32, scale=SCALE, ratio=RATIO)
    drawn = [reference.make_params([torch.zeros(3, size, size)]) for _ in range(n)]
    ours = {"area": height * width / size**2, "ratio": width / height, "left": left}
    theirs = {
        "area": torch.tensor([d["height"] * d["width"] for d in drawn]) / size**2,
        "ratio": torch.tensor([d["width"] / d["height"] for d in drawn]),
        "left": torch.tensor([d["left"] for d in drawn]),
    }
    for name in ours:
        grid = torch.linspace(0.05, 0.95, 19)
        ks = _distance(ours[name].double(), theirs[name].double(), grid.double())
        # the Kolmogorov-Smirnov bound of two samples of 4,000 at p = 0.001 is 0.044
        assert ks < 0.044, (name, ks)


def _distance(a, b, grid):
    points = torch.quantile(torch.cat([a, b]), grid)
    cdf_a = (a[:, None] <= points).double().mean(0)
    cdf_b = (b[:, None] <= points).double().mean(0)
    return (cdf_a - cdf_b).abs().max().item()
