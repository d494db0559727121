"""Options and presets of random views. This module does not import torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from tyro.conf import arg

from effssl.hints import did_you_mean, option
from effssl.own import is_own
from effssl.shown import shown

if TYPE_CHECKING:  # every option of a `MultiView` has a value
    Number: TypeAlias = float
    Numbers: TypeAlias = tuple[float, ...]
    Range: TypeAlias = tuple[float, float]
    Switch: TypeAlias = bool
else:
    Number = float | None
    Numbers = tuple[float, ...] | None
    Range = Annotated[tuple[float, float] | None, arg(metavar="LOW HIGH")]
    Switch = Annotated[bool | None, arg(metavar="True|False")]
AS_IN_PRESET: Any = None


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Distribution of random views. A field that is None is as in the preset.

    Without a preset, as in ``MultiView(ViewOptions(flip=0.0), ...)``, it is as in ``DEFAULTS``.
    Factors are drawn uniformly from [1 - x, 1 + x].

    Raises:
        ValueError: If a value has the wrong type or is out of bounds.
    """

    scale: Range = AS_IN_PRESET
    """Bounds of the crop's share of the image area."""
    ratio: Range = AS_IN_PRESET
    """Bounds of the crop's width / height."""
    flip: Number = AS_IN_PRESET
    """Probability of a left-right flip."""
    vertical_flip: Number = AS_IN_PRESET
    """Probability of an up-down flip."""
    quarter_turns: Switch = AS_IN_PRESET
    """Whether views are turned by 0, 1, 2 or 3 quarter turns, each as likely."""
    rotate: Number = AS_IN_PRESET
    """Largest angle in degrees, at most 180, by which views are turned to either side."""
    jitter: Number = AS_IN_PRESET
    """Probability that brightness, contrast, saturation and hue are changed."""
    brightness: Number = AS_IN_PRESET
    """Half-width of the brightness factor."""
    contrast: Number = AS_IN_PRESET
    """Half-width of the contrast factor."""
    saturation: Number = AS_IN_PRESET
    """Half-width of the saturation factor; RGB only."""
    hue: Number = AS_IN_PRESET
    """Largest turn of the hue as a share of the circle, at most 0.5; RGB only."""
    per_channel: Switch = AS_IN_PRESET
    """Whether every channel has its own brightness and contrast factor, and its contrast is about
    its own mean."""
    grey: Number = AS_IN_PRESET
    """Probability that the view loses its color; RGB only."""
    blur: Numbers = AS_IN_PRESET
    """Probability of Gaussian blur for each view; with more views than values the values repeat."""
    sigma: Range = AS_IN_PRESET
    """Bounds of the blur's standard deviation in pixels of the view."""
    solarize: Numbers = AS_IN_PRESET
    """Probability for each view, as for blur, that pixels from 128 / 255 on are inverted."""
    erase: Number = AS_IN_PRESET
    """Probability that a box of 2 to 33 % of the view becomes the mean color."""
    mean: Numbers = AS_IN_PRESET
    """Value to subtract from pixels in [0, 1]; one for each channel, or one for all."""
    std: Numbers = AS_IN_PRESET
    """Value to divide by afterwards; one for each channel, or one for all."""

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            object.__setattr__(self, name, _checked(name, value))

    @classmethod
    def of(cls, values: object) -> ViewOptions:
        """Make options from what a configuration holds: options, or an object of their fields.

        Raises:
            ValueError: If it is something else, or names an option that does not exist.
        """
        if isinstance(values, _Flags):
            values = values.given()
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise ValueError(f"view must be ViewOptions or an object of them; got {shown(values)}")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                hint = did_you_mean(str(name), names)
                raise ValueError(
                    f"{option('view')}.{shown(name)[1:-1]} is no view option; {hint}they are "
                    f"{', '.join(names)}"
                )
        return cls(**values)

    def given(self) -> dict[str, Any]:
        """Return the fields that are not None, by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def is_whole(self) -> bool:
        """Whether every field is given, mean and std apart: those may be of weights to go on from.

        So a preset would change nothing. For a function of one's own only mean and std are given.
        """
        names = {field.name for field in dataclasses.fields(self)}
        return names - self.given().keys() <= {"mean", "std"}

    def over(self, preset: str | ViewOptions) -> ViewOptions:
        """Return the options of a preset with the given ones of these in their place.

        Raises:
            ValueError: If there is no such preset.
        """
        if isinstance(preset, str) and is_own(preset):
            preset = DEFAULTS  # beneath options that leave nothing open
        if isinstance(preset, str):
            if preset not in PRESETS:
                hint = did_you_mean(preset, PRESETS)
                raise ValueError(
                    f"unknown preset {shown(preset)}; {hint}presets are {', '.join(PRESETS)}"
                )
            preset = PRESETS[preset]
        return dataclasses.replace(preset, **self.given())

    def flags(self) -> list[str]:
        """Return the command-line flags of the given fields."""
        flags = []
        for name, value in self.given().items():
            words = value if isinstance(value, tuple) else (value,)
            flags += ["--view." + name.replace("_", "-"), *map(str, words)]
        return flags

    def check_lengths(self, views: int, channels: int) -> None:
        """Check the numbers of values that are given for each view and for each channel.

        Raises:
            ValueError: If there are more values than views, or neither one nor one a channel.
        """
        for name in ("blur", "solarize"):
            count = len(getattr(self, name) or ())
            if count > views:
                raise ValueError(
                    f"{option(f'view.{name}')} must be one value for each of {views} views, or "
                    f"fewer, which repeat; got {count}"
                )
        for name in ("mean", "std"):
            count = len(getattr(self, name) or (0.0,))
            if count not in (1, channels):
                either = f"1 or {channels} values" if channels > 1 else "1 value"
                raise ValueError(
                    f"{option(f'view.{name}')} must be {either}, one a channel; got {count}"
                )

    def channel_stats(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of normalization for a number of channels.

        If the number differs from that of the options, their values are averaged, as in timm.
        """

        def fit(values: tuple[float, ...]) -> tuple[float, ...]:
            if len(values) == channels:
                return values
            return (round(sum(values) / len(values), 4),) * channels

        return fit(self.mean), fit(self.std)

    def __str__(self) -> str:
        """Return the given fields in words, such as ``flip 0, scale 0.2 1``."""
        words = []
        for name, value in self.given().items():
            numbers = value if isinstance(value, tuple) else (value,)
            said = [f"{n:g}" for n in numbers]
            if isinstance(value, bool):
                said = ["on" if value else "off"]
            words.append(" ".join([name.replace("_", " "), *said]))
        return ", ".join(words) or "as the preset"


class _Flags(ViewOptions):
    """Options that `ViewOptions.of` checks, for tyro would make several lines of their errors."""

    def __post_init__(self) -> None:
        pass


NO_CHANGES = _Flags()
"""Default of a field of the command line whose flags are options."""


def views_of(trained: Mapping[str, Any]) -> tuple[str, ViewOptions]:
    """Return the preset of a training and what it changed in it, for views like its own.

    Nothing is imported. For views that a function of one's own made, it is the default preset with
    their mean and std.

    Args:
        trained: Configuration of the training, or an empty one.
    """
    preset, view = trained.get("preset", "imagenet"), ViewOptions.of(trained.get("view", {}))
    return "imagenet" if is_own(preset) and not view.is_whole else preset, view


def describe(preset: str, view: ViewOptions) -> str:
    """Return in words a preset and what is changed in it, such as ``cifar with flip 0``."""
    if is_own(preset):
        return preset
    return f"{preset} with {view}" if view.given() else preset


_NUMBERS = {
    **dict.fromkeys(("flip", "vertical_flip", "jitter", "grey", "erase"), (0, 1)),
    **dict.fromkeys(("brightness", "contrast", "saturation"), (0, 100)),
    "rotate": (0, 180),
    "hue": (0, 0.5),
}
"""Bounds of options that are one number."""
_RANGES = {"scale": 1, "ratio": 100, "sigma": 1000}
"""Upper bound of options that are a range above 0."""
_LISTS = {"blur": (0, 1), "solarize": (0, 1), "mean": (-1000, 1000), "std": (1e-6, 1000)}
"""Bounds of each of the numbers of options that are several."""


def _checked(name: str, value: Any) -> Any:
    """Return the value of an option, numbers as float and lists as tuples.

    Raises:
        ValueError: If it has the wrong type or is out of bounds.
    """
    if isinstance(value, list):  # from a file
        value = tuple(value)
    numbers = value if isinstance(value, tuple) else (value,)
    low: float
    high: float
    right = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    right = right and isinstance(value, tuple) == (name in _RANGES or name in _LISTS)
    if name in _NUMBERS:
        low, high = _NUMBERS[name]
        right, what = right and low <= value <= high, f"a number, {low} to {high}"
    elif name in _RANGES:
        high = _RANGES[name]
        right = right and len(value) == 2 and 0 < value[0] <= value[1] <= high
        what = f"two numbers LOW HIGH with 0 < LOW <= HIGH <= {high}"
    elif name in _LISTS:
        low, high = _LISTS[name]
        right = right and len(value) > 0 and all(low <= n <= high for n in value)
        what = f"one number or more, each {low} to {high}"
    else:
        right, what = isinstance(value, bool), "True or False"
    if not right:
        raise ValueError(f"{option(f'view.{name}')} must be {what}; got {shown(value)}")
    if isinstance(value, bool):
        return value
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)


DEFAULTS = ViewOptions(
    scale=(0.08, 1.0),
    ratio=(3 / 4, 4 / 3),
    flip=0.5,
    vertical_flip=0.0,
    quarter_turns=False,
    rotate=0.0,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    per_channel=False,
    grey=0.2,
    blur=(0.0,),
    sigma=(0.1, 2.0),
    solarize=(0.0,),
    erase=0.0,
    mean=(0.5,),
    std=(0.5,),
)
"""Options without a preset."""
_CHANGES = {
    # the views of arXiv:2312.10725 for CIFAR: no blur, no solarize
    "cifar": ViewOptions(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "stl": ViewOptions(
        scale=(0.2, 1.0),
        grey=0.1,
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
    ),
    # the Barlow Twins recipe (arXiv:2103.03230, appendix A)
    "imagenet": ViewOptions(
        saturation=0.2,
        blur=(1.0, 0.1),
        solarize=(0.0, 0.2),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    # objects that fill the image, without color
    "grey": ViewOptions(scale=(0.4, 1.0), saturation=0.0, hue=0.0, grey=0.0),
    # any number of channels, none of them a color
    "multispectral": ViewOptions(
        saturation=0.0, hue=0.0, per_channel=True, grey=0.0, blur=(1.0, 0.1)
    ),
    # no up; magnification and stain tell what is seen, so that crops, hue and color change little;
    # blur as of focus; never inverted, since bright field is not dark field
    "microscopy": ViewOptions(
        scale=(0.25, 1.0),
        vertical_flip=0.5,
        quarter_turns=True,
        brightness=0.3,
        contrast=0.3,
        saturation=0.2,
        hue=0.05,
        grey=0.1,
        blur=(0.5, 0.1),
    ),
    # no up; light and haze vary, while the color tells plants, water and soil apart
    "aerial": ViewOptions(
        scale=(0.2, 1.0),
        vertical_flip=0.5,
        quarter_turns=True,
        saturation=0.2,
        hue=0.05,
        grey=0.1,
        blur=(0.5, 0.1),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
}
PRESETS = {name: dataclasses.replace(DEFAULTS, **o.given()) for name, o in _CHANGES.items()}
"""Options by the name of a preset; no field is None."""
