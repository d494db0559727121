"""The whole pipeline: torchvision's operations in their order, image by image."""

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from effssl.views import MultiView, ViewOptions
from effssl.views import _eager as eager
from effssl.views import _resampling as resampling
from effssl.views._geometry import crop_boxes

PLAIN = {"mean": (0.0,), "std": (1.0,)}  # views in pixel units
FULL = ViewOptions(saturation=0.2, blur=(1.0, 0.3), solarize=(0.0, 0.5), **PLAIN)


def smooth(n, channels, height, width):
    coarse = torch.rand(n, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return fine.clamp(0, 1).mul(255).round().to(torch.uint8)


def reference(image, box, draw, size):
    x = F.resized_crop(image, *box, [size, size], antialias=True)
    x = F.to_dtype(x, torch.float32, scale=True)
    x = F.horizontal_flip(x) if draw["flip"] else x
    if draw["brightness"].ndim:
        for name in ("brightness", "contrast"):
            adjust = getattr(F, f"adjust_{name}")
            planes = zip(x, draw[name], strict=True)
            x = torch.cat([adjust(plane[None], factor.item()) for plane, factor in planes])
    else:
        for name in ("brightness", "contrast"):
            x = getattr(F, f"adjust_{name}")(x, draw[name].item())
    if len(x) == 3:
        x = F.adjust_saturation(x, draw["saturation"].item())
        x = F.adjust_hue(x, draw["hue"].item())
        x = F.rgb_to_grayscale(x, 3) if draw["grey"] else x
    if draw["sigma"]:
        x = F.gaussian_blur(x, [23, 23], [draw["sigma"].item()] * 2)
    if "solarize" in draw and draw["solarize"]:
        x = F.solarize(x, threshold=128 / 255)
    return x


@pytest.mark.parametrize(("size", "white"), [(32, 1), (64, 1), (64, 255)])
@pytest.mark.parametrize(
    ("options", "channels"),
    [
        (FULL, 3),
        (FULL, 1),
        (ViewOptions(per_channel=True, saturation=0, hue=0, grey=0, blur=(0.5,), **PLAIN), 5),
        (ViewOptions(per_channel=True, saturation=0, hue=0, grey=0, blur=(0.5,), **PLAIN), 3),
    ],
)
def test_views_equal_the_chain_of_torchvision_operations(size, white, options, channels):
    images = smooth(24, channels, 70, 90)
    images = images if white == 255 else images / 255  # large views of uint8 are of rounded crops
    sizes = torch.tensor([[70, 90], [60, 50]]).repeat(12, 1)
    mv = MultiView(options, views=2, size=size)
    draws = mv.draw(24, torch.Generator().manual_seed(0), channels=channels)
    views = mv.apply(images, draws, sizes)
    for v in range(2):
        draw = {name: values[v] for name, values in draws.items()}
        boxes = torch.stack(crop_boxes(draw, sizes, mv.options.ratio), dim=1)
        for i in range(24):
            part = {name: values[i] for name, values in draw.items()}
            expected = reference(images[i], boxes[i].tolist(), part, size)
            torch.testing.assert_close(views[v, i], expected, atol=1 / 255 + 1e-5, rtol=0)
            assert (views[v, i] - expected).abs().mean() < 1e-4


def test_both_forms_of_the_crop_give_the_same_views(monkeypatch):
    images, mv = smooth(8, 3, 70, 90), MultiView(FULL, views=2, size=64)
    draws = mv.draw(8, torch.Generator().manual_seed(0))
    interpolated = mv.apply(images, draws)
    monkeypatch.setattr(resampling, "LARGEST_BY_MATRICES", 64)
    # interpolation rounds to whole pixel values, the operations after it enlarge that
    assert (mv.apply(images, draws) - interpolated).abs().mean() < 1 / 255
    assert (mv.apply(images / 255, draws) - mv.apply(images, draws)).abs().max() < 1e-4


@pytest.mark.parametrize("size", [32, 64])
def test_the_size_of_chunks_does_not_matter(monkeypatch, size):
    images, mv = smooth(12, 3, 70, 90), MultiView(FULL, views=2, size=size)
    draws = mv.draw(12, torch.Generator().manual_seed(0))
    expected = mv.apply(images, draws)
    monkeypatch.setattr(eager, "CPU_CHUNK", 1)
    torch.testing.assert_close(mv.apply(images, draws), expected, atol=1e-5, rtol=0)
    part = mv.apply(images[3:7], {name: values[:, 3:7] for name, values in draws.items()})
    torch.testing.assert_close(part, expected[:, 3:7], atol=1e-5, rtol=0)


def test_color_parameters_are_distributed_as_torchvision_draws_them():
    torch.manual_seed(0)
    n, options = 4000, ViewOptions(jitter=1.0, saturation=0.2, blur=(1.0,))
    draws = MultiView(options, views=1, size=8).draw(n)
    jitter, blur = v2.ColorJitter(0.4, 0.4, 0.2, 0.1), v2.GaussianBlur(23, (0.1, 2.0))
    drawn = [jitter.make_params([]) | blur.make_params([]) for _ in range(n)]
    names = {"hue": "hue_factor", "sigma": "sigma"}
    for name in ("brightness", "contrast", "saturation", "hue", "sigma"):
        theirs = [d[names.get(name, f"{name}_factor")] for d in drawn]
        theirs = torch.tensor([t[0] if isinstance(t, list) else t for t in theirs])
        ours, theirs = draws[name][0].sort().values, theirs.sort().values
        ranks = torch.searchsorted(ours, theirs) / n
        distance = (ranks - torch.arange(n) / n).abs().max().item()
        # the Kolmogorov-Smirnov bound of two samples of 4,000 at p = 0.001
        assert distance < 0.044, (name, distance)


def test_flip_blur_and_solarize_are_as_frequent_as_asked_and_views_take_turns():
    draws = MultiView("imagenet", views=4, size=8).draw(5000, torch.Generator().manual_seed(0))
    wanted = {
        "flip": (0.5,) * 4,
        "grey": (0.2,) * 4,
        "sigma": (1.0, 0.1, 1.0, 0.1),
        "solarize": (0.0, 0.2, 0.0, 0.2),
    }
    for name, shares in wanted.items():
        seen = (draws[name] != 0).float().mean(1)
        # 4 standard deviations of a share of 5,000; certain ones must be exact
        bound = torch.tensor([4 * (p * (1 - p) / 5000) ** 0.5 for p in shares])
        assert ((seen - torch.tensor(shares)).abs() <= bound).all(), (name, seen)


def test_parameters_added_later_leave_the_earlier_ones_as_they_were():
    old = MultiView(ViewOptions(), views=2, size=8).draw(5, torch.Generator().manual_seed(0))
    new = MultiView(ViewOptions(blur=(1.0,), solarize=(0.5,)), views=2, size=8).draw(
        5, torch.Generator().manual_seed(0)
    )
    assert set(new) - set(old) == {"sigma", "solarize"}
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_multispectral_draws_a_factor_for_each_channel():
    mv = MultiView("multispectral", views=2, size=8)
    draws = mv.draw(6, torch.Generator().manual_seed(0), channels=5)
    assert draws["brightness"].shape == draws["contrast"].shape == (2, 6, 5)
    changed = draws["brightness"][draws["brightness"][..., 0] != 1]
    assert (changed.std(-1) > 0).all()
    assert "solarize" not in draws and not draws["grey"].any() and (draws["hue"] == 0).all()
