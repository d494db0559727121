"""timm's pretrained_cfg in config.json: the keys that a folder may hold, and their values.

The file may come from anybody, so every value is checked before use.
"""

from __future__ import annotations

from collections.abc import Mapping

from effssl.shown import shown

_SIZES = ("input_size", "min_input_size", "test_input_size")
_POOLS = ("pool_size", "test_pool_size")
_NUMBERS = ("crop_pct", "test_crop_pct")
_WORDS = ("first_conv", "classifier", "architecture", "tag", "license", "paper_ids", "paper_name")
_WORDS = (*_WORDS, "description", "origin_url")
_CHOICES = {
    "interpolation": ("bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"),
    "crop_mode": ("center", "squash", "border"),
    "custom_load": (False, True),
    "fixed_input_size": (False, True),
}
_MOST_RESIZED = 12_000  # pixels of a side
_MOST_SIDE = 2048  # of the images in a batch; timm's own have 1024
_MOST_ASPECT = 2  # of the longer by the shorter side; timm's own have 4 / 3


def known_cfg(cfg: Mapping[str, object]) -> dict:
    """Return what of a configuration of timm a model folder may hold."""
    return {key: value for key, value in cfg.items() if key in _ALLOWED and value is not None}


def check_cfg(cfg: dict, img_size: int) -> None:
    """Check the values of pretrained_cfg, and that images of its sizes fit into memory.

    Args:
        cfg: What the file says.
        img_size: Side of the images that the backbone is built for; 0 if it is built for any.

    Raises:
        ValueError: If a key or a value is not allowed.
    """
    for key, value in cfg.items():
        if key not in _ALLOWED:
            raise ValueError(f"pretrained_cfg may not hold {shown({key: value})}")
        if not _ALLOWED[key](value):
            raise ValueError(f"{key} of pretrained_cfg cannot be {shown(value)}")
    _check_resize(cfg)
    _check_sides(cfg, max(_MOST_SIDE, img_size))


def _check_resize(cfg: dict) -> None:
    """Refuse a crop of a small share of a huge image, which every image would be resized to."""
    sides = [side for key in _SIZES for side in cfg.get(key, [0])[1:]]
    shares = [cfg[key] for key in _NUMBERS if key in cfg]
    resized = max(sides, default=0) / min([1.0, *shares])
    if resized > _MOST_RESIZED:
        raise ValueError(
            f"input_size and crop_pct of pretrained_cfg ask to resize every image to "
            f"{resized:,.0f} pixels; {_MOST_RESIZED:,} are allowed"
        )


def _check_sides(cfg: dict, most: int) -> None:
    """Refuse images of which a batch would fill the memory, whatever the weights are.

    Larger ones are for backbones that are built for them, whose weights or tables are as large.
    """
    for key in _SIZES:
        sides = cfg.get(key, [0, 1, 1])[1:]
        if max(sides) > most or max(sides) > _MOST_ASPECT * min(sides):
            raise ValueError(
                f"{key} of pretrained_cfg asks for images of {sides[0]} x {sides[1]} pixels; sides "
                f"up to {most} are allowed, one at most {_MOST_ASPECT} times the other"
            )


def _are_sides(value: object, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(side) is int and 1 <= side <= 8192 for side in value)
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6  # False for NaN too


def _are_stats(value: object) -> bool:
    return isinstance(value, list) and len(value) <= 1024 and all(map(_is_number, value))


def _are_words(value: object) -> bool:
    words = value if isinstance(value, list) else [value]
    return len(words) <= 8 and all(isinstance(w, str) and len(w) <= 2000 for w in words)


_ALLOWED = {
    **dict.fromkeys(_SIZES, lambda value: _are_sides(value, 3)),
    **dict.fromkeys(_POOLS, lambda value: _are_sides(value, 2)),
    **dict.fromkeys(_NUMBERS, lambda value: _is_number(value) and 0.1 <= value <= 4),
    **dict.fromkeys(_WORDS, _are_words),
    **{key: lambda value, of=choices: value in of for key, choices in _CHOICES.items()},
    "mean": _are_stats,
    "std": lambda value: _are_stats(value) and all(number > 0 for number in value),
    "num_classes": lambda value: type(value) is int and 0 <= value,
}
"""Keys of timm's pretrained_cfg that a folder may hold, with a check of their values.

Keys that name files or addresses to load from are not among them.
"""
