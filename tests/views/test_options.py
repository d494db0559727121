"""View options: what is given, over a preset, in words, as flags, and checked."""

import dataclasses
import subprocess
import sys

import pytest

from effssl.views import PRESETS, MultiView, ViewOptions
from effssl.views.options import DEFAULTS, describe

FIELDS = [field.name for field in dataclasses.fields(ViewOptions)]
NAN, INF = float("nan"), float("inf")


def test_what_is_given_replaces_the_preset_and_the_rest_is_as_it_was():
    changed = ViewOptions(flip=0, blur=(0.5,), quarter_turns=True).over("imagenet")
    expected = {"flip": 0.0, "blur": (0.5,), "quarter_turns": True}
    for name in FIELDS:
        assert getattr(changed, name) == expected.get(name, getattr(PRESETS["imagenet"], name))
    assert MultiView(changed, views=2, size=8).options == changed
    assert MultiView(ViewOptions(flip=0), views=2, size=8).options == dataclasses.replace(
        DEFAULTS, flip=0
    )


def test_a_switch_and_a_zero_of_a_preset_can_be_overridden_too():
    off = ViewOptions(quarter_turns=False, vertical_flip=0).over("microscopy")
    assert off.quarter_turns is False and off.vertical_flip == 0


def test_presets_leave_no_option_open():
    for options in (DEFAULTS, *PRESETS.values()):
        assert options.given().keys() == set(FIELDS)


def test_numbers_are_equal_whether_they_come_as_whole_ones_as_lists_or_as_flags():
    options = ViewOptions(scale=[1, 1], flip=1, mean=[0])
    assert options == ViewOptions(scale=(1.0, 1.0), flip=1.0, mean=(0.0,))
    assert repr(options) == repr(ViewOptions(scale=(1.0, 1.0), flip=1.0, mean=(0.0,)))
    flags = "--view.scale 1.0 1.0 --view.flip 1.0 --view.mean 0.0".split()
    assert options.flags() == flags and ViewOptions().flags() == []


def test_options_are_told_in_words():
    options = ViewOptions(scale=(0.2, 1), vertical_flip=0.5, quarter_turns=True, per_channel=False)
    words = "scale 0.2 1, vertical flip 0.5, quarter turns on, per channel off"
    assert str(options) == words and describe("cifar", options) == f"cifar with {words}"
    assert str(ViewOptions()) == "as the preset" and describe("cifar", ViewOptions()) == "cifar"


BAD = {
    "scale": [
        (0, 1),
        (0.5, 0.2),
        (0.5, 1.1),
        (0.5,),
        (0.1, 0.2, 0.3),
        0.5,
        (NAN, 1),
        "ab",
        ("a", 1),
    ],
    "ratio": [(0, 1), (2, 1), (-1, 1), (1, INF), (1,), 1],
    "sigma": [(0, 1), (2, 1), (1, INF), (NAN, NAN), 1],
    "rotate": [-1, 181, NAN, INF, (5,)],
    "hue": [-0.1, 0.6, NAN, True],
    "quarter_turns": [1, 0.5, "yes", (True,)],
    "per_channel": [1, "no"],
    "mean": [(), (NAN,), ("0",), 0.5, (INF,), (True,)],
    "std": [(), (0,), (-1,), (1e-9,), 0.5],
    **dict.fromkeys(("blur", "solarize"), [(), (1.5,), (-0.1, 1), 0.5, (NAN,), "1"]),
    **dict.fromkeys(
        ("flip", "vertical_flip", "jitter", "grey", "erase"), [-0.1, 1.1, NAN, "0.5", True, (0.5,)]
    ),
    **dict.fromkeys(("brightness", "contrast", "saturation"), [-0.1, INF, NAN, 1e9, "1", False]),
}


def test_values_that_are_wrong_were_tried_for_every_option():
    assert BAD.keys() == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_wrong_value_is_one_line_that_names_the_option_and_what_is_allowed(name):
    for value in BAD[name]:
        with pytest.raises(ValueError, match=f"^view.{name} must be .*; got .*$") as error:
            ViewOptions(**{name: value})
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^view\.\w+ must be .*; got '" + "x" * 70):
        ViewOptions(**{name: "x" * 10_000})


def test_the_error_of_a_range_says_how_its_ends_relate():
    message = r"view.scale must be two numbers LOW HIGH with 0 < LOW <= HIGH <= 1; got \(1.0, 0.2\)"
    with pytest.raises(ValueError, match=message):
        ViewOptions(scale=(1.0, 0.2))


@pytest.mark.parametrize(
    "given, message",
    [
        ({"blur": (0.1, 0.2, 0.3)}, "view.blur must be one value for each of 2 views, or fewer"),
        ({"solarize": (0.1,) * 5}, "view.solarize must be one value .* got 5"),
        ({"mean": (0.5, 0.5)}, "view.mean must be 1 or 3 values, one a channel; got 2"),
        ({"std": (0.5,) * 4}, "view.std must be 1 or 3 values"),
    ],
)
def test_values_for_each_view_and_channel_must_be_as_many(given, message):
    with pytest.raises(ValueError, match=message):
        ViewOptions(**given).check_lengths(views=2, channels=3)


def test_as_many_values_as_views_and_channels_or_fewer_that_repeat_are_right():
    ViewOptions(blur=(0.1,), solarize=(0.1, 0), mean=(0, 0, 0), std=(1,)).check_lengths(2, 3)
    ViewOptions().check_lengths(views=1, channels=1)
    with pytest.raises(ValueError, match="view.mean must be 1 value, one a channel; got 3"):
        ViewOptions(mean=(0, 0, 0)).check_lengths(views=2, channels=1)


def test_what_a_file_holds_becomes_options_or_one_clear_error():
    assert ViewOptions.of({"flip": 0, "scale": [0.5, 1]}) == ViewOptions(flip=0, scale=(0.5, 1))
    assert ViewOptions.of({}) == ViewOptions() == ViewOptions.of(ViewOptions())
    with pytest.raises(ValueError, match="view.flop is no view option; did you mean 'flip'?"):
        ViewOptions.of({"flop": 0})
    for value in (None, 3, "flip", ["flip"]):
        with pytest.raises(ValueError, match="view must be ViewOptions or an object of them; got"):
            ViewOptions.of(value)


def test_options_are_read_without_torch():
    code = "import sys, effssl.views.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
