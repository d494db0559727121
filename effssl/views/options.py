"""Options and presets of random views."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """Distribution of random views. Factors are drawn uniformly from [1 - x, 1 + x].

    Attributes:
        scale: Bounds of the crop's share of the image area.
        ratio: Bounds of the crop's width / height.
        flip: Probability of a left-right flip.
        jitter: Probability that brightness, contrast, saturation and hue are changed.
        brightness: Half-width of the brightness factor.
        contrast: Half-width of the contrast factor.
        saturation: Half-width of the saturation factor; RGB only.
        hue: Largest turn of the hue as a share of the circle, at most 0.5; RGB only.
        per_channel: Whether every channel has its own brightness and contrast factor, and its
            contrast is about its own mean.
        grey: Probability that the view loses its color; RGB only.
        blur: Probability of Gaussian blur for each view; with more views than values the values
            repeat.
        sigma: Bounds of the blur's standard deviation in pixels of the view.
        solarize: Probability for each view, as for blur, that pixels from 128 / 255 on are
            inverted.
        mean: Value to subtract from pixels in [0, 1]; one for each channel, or one for all.
        std: Value to divide by afterwards; one for each channel, or one for all.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    per_channel: bool = False
    grey: float = 0.2
    blur: tuple[float, ...] = (0.0,)
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: tuple[float, ...] = (0.0,)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def channel_stats(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of normalization for a number of channels.

        If the number differs from that of the options, their values are averaged, as in timm.
        """

        def fit(values: tuple[float, ...]) -> tuple[float, ...]:
            if len(values) == channels:
                return values
            return (round(sum(values) / len(values), 4),) * channels

        return fit(self.mean), fit(self.std)


PRESETS = {
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
}
