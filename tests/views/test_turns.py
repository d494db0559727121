"""Flips, quarter turns, rotation and erasing: torchvision's operations on the same parameters."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from effssl.views import MultiView, ViewOptions
from effssl.views import _resampling as resampling
from effssl.views._geometry import crop_boxes
from effssl.views._rotation import surroundings

# views in pixel units, of crops alone
BARE = ViewOptions(flip=0.5, jitter=0, grey=0, mean=(0,), std=(1,))
EVERY = ViewOptions(flip=0.5, vertical_flip=0.5, quarter_turns=True, erase=0.7).over(BARE)
NEW = {
    "vertical_flip": {"vertical_flip": 0.3},
    "quarter_turns": {"quarter_turns": True},
    "angle": {"rotate": 20},
    "erased": {"erase": 0.6},
}
"""Draws of the new operations, and the options that ask for them."""


def pixels(n, channels, height, width):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1))


def drawn(options, n=20_000, views=1, size=64, seed=0):
    return MultiView(options, views=views, size=size).draw(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_flips_turns_and_erasing_equal_torchvision(channels, size, white):
    images = pixels(60, channels, 50, 70)
    images = (images * 255).round().to(torch.uint8) if white == 255 else images
    multi_view = MultiView(EVERY, views=1, size=size)
    draws = multi_view.draw(60, torch.Generator().manual_seed(0), channels=channels)
    views = multi_view.apply(images, draws)[0]
    draw = {name: values[0] for name, values in draws.items()}
    boxes = torch.stack(crop_boxes(draw, torch.tensor([[50, 70]]).expand(60, 2), (3 / 4, 4 / 3)), 1)
    seen = set()
    for i in range(60):
        x = F.resized_crop(images[i], *boxes[i].tolist(), [size, size], antialias=True)
        x = F.to_dtype(x, torch.float32, scale=True)
        x = F.horizontal_flip(x) if draw["flip"][i] else x
        x = F.vertical_flip(x) if draw["vertical_flip"][i] else x
        x = torch.rot90(x, int(draw["quarter_turns"][i]), dims=(-2, -1))
        top, left, height, width = draw["erased"][i].tolist()
        x = F.erase(x, top, left, height, width, v=torch.zeros(1, 1, 1)) if width else x
        # of uint8 torchvision rounds either axis
        torch.testing.assert_close(views[i], x, atol=1.01 / white if white > 1 else 1e-5, rtol=0)
        seen.add((bool(draw["flip"][i]), bool(draw["vertical_flip"][i]), bool(width)))
    assert len(seen) == 8 and draw["quarter_turns"].unique().tolist() == [0, 1, 2, 3]


def symmetric(images, more):
    """Images with their mirror images around them, `more` pixels wide."""
    images = torch.cat([images.flip(-1), images, images.flip(-1)], -1)
    images = torch.cat([images.flip(-2), images, images.flip(-2)], -2)
    height, width = images.shape[-2] // 3, images.shape[-1] // 3
    return images[..., height - more : 2 * height + more, width - more : 2 * width + more]


@pytest.mark.parametrize("degrees", [10, 45, 180])
@pytest.mark.parametrize(("side", "scale"), [(64, 0.5), (128, 1.0), (16, 1.0), (48, 0.3)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_a_rotated_view_is_the_middle_of_torchvisions_rotation_of_more_than_the_crop(
    degrees, side, scale, dtype
):
    size, channels = 16, 2
    options = ViewOptions(rotate=degrees, scale=(scale,) * 2, ratio=(1, 1)).over(BARE)
    images = pixels(6, channels, side, side)
    images = (images * 255).round().to(torch.uint8) if dtype == torch.uint8 else images.to(dtype)
    multi_view = MultiView(options, views=1, size=size)
    draws = multi_view.draw(6, torch.Generator().manual_seed(3))
    views = multi_view.apply(images, draws)[0]
    assert views.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    images = images.double() / (255 if dtype == torch.uint8 else 1)
    boxes = crop_boxes(
        {name: values[0] for name, values in draws.items()},
        torch.tensor([[side, side]]).expand(6, 2),
        options.ratio,
    )
    margin = surroundings(size, degrees)
    for i, (top, left, height, _) in enumerate(torch.stack(boxes, 1).tolist()):
        # the weights of torchvision's antialiased resizing, at the places of the margin too
        more = math.ceil(margin * height / size) + height
        around = symmetric(images[i], min(more, side))
        rows, columns = (
            resampling.resampling_matrix(
                torch.tensor([min(more, side) + start - margin * height / size]),
                torch.tensor([(size + 2 * margin) * height / size]),
                around.shape[1],
                size + 2 * margin,
                dtype=torch.float64,
            )[0]
            for start in (top, left)
        )
        wide = rows @ around @ columns.T
        turned = F.rotate(wide, draws["angle"][0, i].item(), F.InterpolationMode.BILINEAR)
        expected = F.center_crop(turned, [size, size])
        expected = expected.flip(-1) if draws["flip"][0, i] else expected
        torch.testing.assert_close(views[i].double(), expected, atol=2e-4, rtol=0)


def test_surroundings_of_whole_factors_are_those_of_torchvisions_resized_crop():
    size, margin = 16, surroundings(16, 180)
    options = ViewOptions(rotate=180, scale=(1, 1), ratio=(1, 1)).over(BARE)
    images = pixels(5, 3, 32, 32)
    multi_view = MultiView(options, views=1, size=size)
    draws = multi_view.draw(5, torch.Generator().manual_seed(0))
    views = multi_view.apply(images, draws)[0]
    for i in range(5):
        wide = F.resize(symmetric(images[i], 2 * margin), [size + 2 * margin] * 2, antialias=True)
        turned = F.rotate(wide, draws["angle"][0, i].item(), F.InterpolationMode.BILINEAR)
        expected = F.center_crop(turned, [size, size])
        expected = expected.flip(-1) if draws["flip"][0, i] else expected
        torch.testing.assert_close(views[i], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [16, 64])
def test_rotated_views_of_packed_images_of_mixed_sizes_are_those_of_padded_ones(size):
    images, sizes = pixels(6, 3, 60, 70), torch.randint(8, 61, (6, 2))
    multi_view = MultiView(ViewOptions(rotate=30, jitter=0, grey=0), views=2, size=size)
    draws = multi_view.draw(6, torch.Generator().manual_seed(0))
    padded = multi_view.apply(images, draws, sizes)
    parts = [image[:, :h, :w].flatten() for image, (h, w) in zip(images, sizes, strict=True)]
    starts = torch.tensor([0, *map(len, parts)]).cumsum(0)[:-1]
    packed = multi_view.render(torch.cat(parts), multi_view.plan(draws, sizes, starts), channels=3)
    torch.testing.assert_close(packed, padded, atol=1e-4, rtol=0)


def test_a_quarter_turn_by_rotation_is_one_without_resampling():
    images = pixels(1, 3, 40, 40)
    multi_view = MultiView(ViewOptions(rotate=90, scale=(0.5, 0.5)).over(BARE), views=2, size=20)
    draws = multi_view.draw(1, torch.Generator().manual_seed(0))
    draws = {
        name: values[:1].expand(2, *values.shape[1:]).clone() for name, values in draws.items()
    }
    draws["angle"][:, 0] = torch.tensor([0.0, 90.0])
    draws["flip"][:] = False
    still, turned = multi_view.apply(images, draws)[:, 0]
    torch.testing.assert_close(turned, still.rot90(1, (1, 2)), atol=1e-4, rtol=0)
    plain = MultiView(ViewOptions(scale=(0.5, 0.5)).over(BARE), views=2, size=20)
    inside = slice(2, -2)  # the filter of a crop ends at its edge, that of a rotated one does not
    expected = plain.apply(images, draws)[0, 0]
    torch.testing.assert_close(still[:, inside, inside], expected[:, inside, inside])


@pytest.mark.parametrize("side", [1, 2, 3, 300])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_rotated_views_of_a_white_image_are_white_whatever_its_size(side, size):
    images = torch.ones(4, 1, side, 2 * side)
    views = MultiView(ViewOptions(rotate=180).over(BARE), views=3, size=size)(images)
    torch.testing.assert_close(views, torch.ones_like(views), atol=1e-5, rtol=0)


def test_new_operations_are_drawn_as_often_and_as_far_as_asked():
    options = ViewOptions(vertical_flip=0.3, quarter_turns=True, rotate=30, erase=0.6)
    draws = drawn(options)
    n = 20_000
    for seen, share in (
        (draws["vertical_flip"][0], 0.3),
        (draws["erased"][0, :, 3] > 0, 0.6),
        *((draws["quarter_turns"][0] == turns, 0.25) for turns in range(4)),
    ):
        bound = 4 * (share * (1 - share) / n) ** 0.5
        assert abs(seen.double().mean() - share) < bound
    angle = draws["angle"][0].sort().values
    assert angle[0] >= -30 and angle[-1] <= 30
    distance = ((angle + 30) / 60 - torch.arange(n) / n).abs().max()
    assert distance < 1.95 / n**0.5  # Kolmogorov-Smirnov at p = 0.001


def test_erased_boxes_are_distributed_as_torchvision_draws_them():
    torch.manual_seed(0)
    n, size = 4000, 64
    ours = drawn(ViewOptions(erase=1.0), n=n, size=size)["erased"][0].double()
    reference = v2.RandomErasing(p=1.0, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0)
    view = torch.zeros(1, size, size)
    made = [reference.make_params([view]) for _ in range(n)]
    theirs = torch.tensor([[d[k] for k in "ijhw"] for d in made], dtype=torch.float64)
    for name, column in zip(("top", "left", "height", "width"), range(4), strict=True):
        a, b = ours[:, column], theirs[:, column]
        steps = torch.arange(size + 1)
        distance = (a[:, None] <= steps).double().mean(0) - (b[:, None] <= steps).double().mean(0)
        # the bound of two samples of 4,000 at p = 0.001
        assert distance.abs().max() < 0.044, name
    assert (ours[:, :2] + ours[:, 2:] <= size).all() and (ours >= 0).all()


def test_erased_pixels_have_the_mean_color_whatever_came_before():
    options = ViewOptions(erase=1.0, solarize=(1.0,), blur=(1.0,)).over("imagenet")
    multi_view = MultiView(options, views=2, size=32)
    draws = multi_view.draw(6, torch.Generator().manual_seed(0))
    views = multi_view.apply(pixels(6, 3, 40, 40), draws).flatten(0, 1)
    without = MultiView(ViewOptions(erase=0).over(options), views=2, size=32)
    others = without.apply(pixels(6, 3, 40, 40), draws).flatten(0, 1)
    for view, other, box in zip(views, others, draws["erased"].flatten(0, 1), strict=True):
        top, left, height, width = box.tolist()
        assert (view[:, top : top + height, left : left + width] == 0).all() and width
        expected = other.clone()
        expected[:, top : top + height, left : left + width] = 0
        assert torch.equal(view, expected)


def test_draws_without_new_operations_are_what_they_always_were():
    """The numbers of earlier versions, in their order: old runs are resumed to the bit."""
    for preset in ("cifar", "stl", "imagenet", "grey", "multispectral"):
        multi_view, shape = MultiView(preset, views=2, size=8), (2, 5)
        ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
        draws = multi_view.draw(5, ours, channels=4)
        crops = torch.rand(*shape, 22, generator=theirs)
        uniform = torch.rand(7, *shape, generator=theirs)
        o = multi_view.options
        assert torch.equal(draws["area"], o.scale[0] + (o.scale[1] - o.scale[0]) * crops[..., :10])
        assert torch.equal(draws["position"], crops[..., 20:])
        assert torch.equal(draws["flip"], uniform[5] < 0.5)
        assert torch.equal(draws["grey"], uniform[6] < o.grey)
        jittered = uniform[0] < 0.8
        assert torch.equal(draws["hue"], torch.where(jittered, o.hue * (2 * uniform[4] - 1), 0.0))
        brightness = uniform[1]
        if o.per_channel:
            brightness = torch.rand(2, *shape, 4, generator=theirs)[0]
            jittered = jittered.unsqueeze(-1)
        low = 1 - o.brightness
        expected = torch.where(jittered, low + (1 + o.brightness - low) * brightness, 1.0)
        assert torch.equal(draws["brightness"], expected)
        if any(o.blur):
            chosen, sigma = torch.rand(2, *shape, generator=theirs)
            blur = torch.tensor([[1.0], [0.1]])
            sigma = o.sigma[0] + (o.sigma[1] - o.sigma[0]) * sigma
            assert torch.equal(draws["sigma"], torch.where(chosen < blur, sigma, 0.0))
        if any(o.solarize):
            solarize = torch.tensor([[0.0], [0.2]])
            drawn_ = torch.rand(shape, generator=theirs)
            assert torch.equal(draws["solarize"], drawn_ < solarize)
        assert not draws.keys() & NEW.keys()
        assert torch.equal(ours.get_state(), theirs.get_state()), preset


@pytest.mark.parametrize("name", NEW)
def test_each_new_operation_leaves_the_draws_of_the_old_ones_as_they_were(name):
    old = drawn("imagenet", n=5, views=2)
    new = drawn(ViewOptions(**NEW[name]).over("imagenet"), n=5, views=2)
    assert new.keys() - old.keys() == {name}
    assert all(torch.equal(old[key], new[key]) for key in old)


@pytest.mark.parametrize("rotate", [0, 25])
def test_a_slice_of_the_new_draws_gives_that_slice_of_the_views(rotate):
    options = ViewOptions(rotate=rotate, erase=0.5).over("microscopy")
    multi_view, images = MultiView(options, views=2, size=16), pixels(8, 3, 30, 40)
    draws = multi_view.draw(8, torch.Generator().manual_seed(0))
    assert NEW.keys() - draws.keys() == ({"angle"} if not rotate else set())
    whole = multi_view.apply(images, draws)
    for rank in range(4):  # of processes
        mine = slice(2 * rank, 2 * rank + 2)
        part = multi_view.apply(images[mine], {k: d[:, mine] for k, d in draws.items()})
        torch.testing.assert_close(part, whole[:, mine], atol=1e-5, rtol=0)
