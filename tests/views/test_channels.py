"""What a preset says of images with other channels than it was made for."""

import pytest
import torch

from effssl.views import MultiView
from effssl.views._channels import channels_note
from effssl.views.options import PRESETS


@pytest.mark.parametrize(
    "preset, channels, line",
    [
        (
            "imagenet",
            4,
            "preset imagenet is made for 3 channels, and images have 4: saturation, hue, grey do "
            "nothing, since they need 3 channels; every channel is normalized by mean 0.449 and "
            "std 0.226 (preset multispectral suits them)",
        ),
        (
            "cifar",
            1,
            "preset cifar is made for 3 channels, and images have 1: saturation, hue, grey do "
            "nothing, since they need 3 channels; every channel is normalized by mean 0.4734 and "
            "std 0.2507 (preset grey suits them)",
        ),
        ("imagenet", 3, None),
        ("grey", 1, None),
        ("grey", 3, None),
        ("multispectral", 13, None),
    ],
)
def test_a_preset_says_what_it_leaves_out(preset, channels, line):
    assert channels_note(preset, PRESETS[preset], channels) == line


def test_views_are_as_the_line_says():
    images = torch.randint(0, 256, (2, 4, 12, 12), dtype=torch.uint8)
    views = MultiView("imagenet", views=2, size=8)
    white = torch.full_like(images, 255)
    assert views(images).shape == (2, 2, 4, 8, 8)
    found = views(white, generator=torch.Generator().manual_seed(0)).amax()
    assert found <= (1 - 0.449) / 0.226 + 1e-3
    assert PRESETS["imagenet"].channel_stats(4) == ((0.449,) * 4, (0.226,) * 4)
