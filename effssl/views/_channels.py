"""What a preset does to images that do not have the channels that it was made for."""

from __future__ import annotations

from effssl.views.options import ViewOptions


def channels_note(preset: str, options: ViewOptions, channels: int) -> str | None:
    """Return one line about what is done otherwise, or None if the options suit the channels.

    Args:
        preset: Name of the preset, for the line.
        options: What views look like.
        channels: Number of channels of the images.
    """
    color = [name for name in ("saturation", "hue", "grey") if getattr(options, name)]
    averaged = len(options.mean) not in (1, channels) or len(options.std) not in (1, channels)
    if channels == 3 or not (color or averaged):
        return None
    done = []
    if color:
        done.append(f"{', '.join(color)} do nothing, since they need 3 channels")
    if averaged:
        mean, std = (values[0] for values in options.channel_stats(channels))
        done.append(f"every channel is normalized by mean {mean:g} and std {std:g}")
    suits = "grey" if channels == 1 else "multispectral"
    return (
        f"preset {preset} is made for 3 channels, and images have {channels}: "
        f"{'; '.join(done)} (preset {suits} suits them)"
    )
