"""The plan: the boxes of every view, where images lie, and the neutral values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effssl.views import PRESETS, MultiView, ViewOptions
from effssl.views import _plan as rows
from effssl.views._geometry import crop_boxes
from effssl.views._plan import alike

ALL = ViewOptions(grey=0.5, jitter=0.5, blur=(0.5,), solarize=(0.5,))


def planned(options=ALL, views=3, images=40, channels=3, stored=None):
    multi_view = MultiView(options, views=views, size=8)
    draws = multi_view.draw(images, torch.Generator().manual_seed(0), channels=channels)
    sizes = torch.tensor([[30, 40]]).expand(images, 2)
    starts = 2**40 + torch.arange(images)
    return draws, multi_view.plan(draws, sizes, starts, channels=channels, stored=stored)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), max_size=12),
    st.sampled_from(sorted(PRESETS)),
    st.integers(0, 2**30),
)
def test_the_boxes_of_all_views_at_once_are_those_of_each_view(views, sizes, preset, seed):
    sizes = torch.tensor(sizes, dtype=torch.long).view(-1, 2)
    multi_view = MultiView(preset, views=views, size=8)
    draws = multi_view.draw(len(sizes), torch.Generator().manual_seed(seed))
    plan = multi_view.plan(draws, sizes, torch.zeros(len(sizes)))
    for v, part in enumerate(plan.unflatten(1, (views, -1)).unbind(1)):
        draw = {name: values[v] for name, values in draws.items()}
        boxes = torch.stack(crop_boxes(draw, sizes, multi_view.options.ratio))
        assert torch.equal(part[rows.TOP : rows.FLIP], boxes.double())
        assert torch.equal(part[rows.HEIGHT : rows.TOP], sizes.T.double())


def test_a_column_holds_what_was_drawn_for_an_image_and_where_it_lies():
    draws, plan = planned()
    assert plan.shape == (rows.FACTORS + 6, 120) and plan.dtype == torch.float64
    by_view = plan.unflatten(1, (3, 40))
    for name in ("flip", "saturation", "hue", "grey", "sigma", "solarize"):
        assert torch.equal(by_view[getattr(rows, name.upper())], draws[name].double()), name
    for channel in range(3):
        assert torch.equal(by_view[rows.FACTORS + channel], draws["brightness"].double())
        assert torch.equal(by_view[rows.FACTORS + 3 + channel], draws["contrast"].double())
    assert torch.equal(by_view[rows.START], (2.0**40 + torch.arange(40).double()).expand(3, 40))


def test_factors_of_channels_stay_apart():
    draws, plan = planned(PRESETS["multispectral"], channels=5)
    brightness, contrast = plan[rows.FACTORS :].unflatten(1, (3, 40)).split(5)
    assert torch.equal(brightness, draws["brightness"].permute(2, 0, 1).double())
    assert torch.equal(contrast, draws["contrast"].permute(2, 0, 1).double())


@pytest.mark.parametrize("channels", [1, 4])
def test_colors_are_left_alone_where_there_are_none(channels):
    _, plan = planned(channels=channels)
    assert (plan[rows.SATURATION] == 1).all()
    assert not plan[rows.HUE].any() and not plan[rows.GREY].any()
    assert plan[rows.SIGMA].any() and plan[rows.SOLARIZE].any()


def test_what_the_options_leave_out_is_neutral():
    _, plan = planned(PRESETS["cifar"])
    assert not plan[rows.SIGMA].any() and not plan[rows.SOLARIZE].any()


def test_the_order_has_blurred_columns_first_and_both_parts_ascend():
    _, plan = planned()
    order, blurred = plan[rows.ORDER].long(), plan[rows.SIGMA] > 0
    expected = [*blurred.nonzero()[:, 0].tolist(), *(~blurred).nonzero()[:, 0].tolist()]
    assert order.tolist() == expected


def test_neighbors_need_the_same_operations_and_blur_and_hue_have_one_slice_each():
    _, plan = planned()
    order = alike(plan)
    assert order.sort().values.tolist() == list(range(120))
    needed = plan[[rows.SIGMA, rows.HUE, rows.GREY, rows.SOLARIZE]][:, order] != 0
    changes = (needed.diff(dim=1) != 0).sum(1)
    assert needed[0, 0] and changes[0] == 1 and changes[1] == 2
    assert (needed.diff(dim=1) != 0).any(0).sum() == len(needed.T.unique(dim=0)) - 1


def test_padding_is_part_of_an_image_in_the_buffer_but_not_of_its_boxes():
    _, plan = planned(stored=torch.tensor([[64, 48]]).expand(40, 2))
    assert (plan[rows.HEIGHT] == 64).all() and (plan[rows.WIDTH] == 48).all()
    assert torch.equal(plan[rows.TOP : rows.FLIP], planned()[1][rows.TOP : rows.FLIP])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_no_images_have_no_views(dtype):
    multi_view = MultiView("imagenet", views=4, size=8)
    assert multi_view(torch.zeros(0, 3, 20, 20, dtype=dtype)).shape == (4, 0, 3, 8, 8)


@pytest.mark.parametrize("size", [16, 64])
def test_images_packed_in_a_buffer_have_the_views_of_padded_ones(size):
    torch.manual_seed(0)
    padded = torch.randint(0, 256, (6, 3, 60, 70), dtype=torch.uint8)
    sizes = torch.stack([torch.randint(8, 61, (6,)), torch.randint(8, 71, (6,))], dim=1)
    packed = [image[:, :h, :w].flatten() for image, (h, w) in zip(padded, sizes, strict=True)]
    starts = torch.tensor([0, *(len(image) for image in packed)]).cumsum(0)[:-1]
    multi_view = MultiView("imagenet", views=3, size=size)
    draws = multi_view.draw(6)
    expected = multi_view.apply(padded, draws, sizes)
    plan = multi_view.plan(draws, sizes, starts)
    for white in (1, 255):
        pixels = torch.cat(packed)
        pixels = pixels if white == 255 else pixels.double() / 255
        dtype = torch.float32 if white == 255 else torch.float64
        views = multi_view.render(pixels, plan, channels=3, dtype=dtype)
        assert views.dtype == dtype
        bound = 1e-5 if white == 255 or size == 16 else 0.05  # large uint8 views are rounded
        torch.testing.assert_close(views.float(), expected, atol=bound, rtol=0)
    half = multi_view.render(torch.cat(packed), plan, channels=3, dtype=torch.bfloat16)
    assert torch.equal(half, expected.bfloat16())
