"""Weights that a training went on from: what config.json says of them, and their license."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from effssl.foreign import file_within, read_text
from effssl.hub._license import LICENSE, License, check_license
from effssl.hub._yaml import parse_yaml
from effssl.naming import Base
from effssl.shown import shown

_FORMS = {  # of the fields of `Base`
    "model": re.compile(r"[\w.-]{1,200}(/[\w.-]{1,200})?", re.ASCII),
    "license": re.compile(r"[\w.+-][\w .+-]{0,99}", re.ASCII),
}
_MOST_CARD = 1_000_000
_PAGE = "https://huggingface.co/{}"
# licenses that forbid some uses, or changed copies: by what their names say, and by their texts
_RESTRICTS = re.compile(
    r"(^|[-_ ])(nc|nd|non-?commercial|research|rail|openrail\W*|llama[\d.]*|gemma)([-_ ]|$)"
    r"|^(dinov3|seer|deepfloyd-if|apple-amlr|h-research|grok2|sapiens|qwen)",
    re.IGNORECASE,
)


def checked_base(base: object) -> Base | None:
    """Check ``base`` of config.json.

    Raises:
        ValueError: If it is anything but the name of weights and that of their license.
    """
    if base is None:
        return None
    known = isinstance(base, dict) and "model" in base and base.keys() <= _FORMS.keys()
    if not known or not all(
        isinstance(value, str) and _FORMS[key].fullmatch(value) for key, value in base.items()
    ):
        raise ValueError(f"base must be the name and the license of weights, is {shown(base)}")
    return Base(**base)


def license_in_card(folder: Path) -> dict[str, object]:
    """Return the keys about the license in the card of a folder; none if it cannot be read."""
    path = folder / "README.md"
    if not path.is_file():
        return {}
    try:
        card = read_text(file_within(path, folder), _MOST_CARD)
        found = re.match(r"---\r?\n(.*?\n)?---\r?\n", card, re.S)
        metadata = parse_yaml(found[1] or "") if found else {}
    except (ValueError, OSError):
        return {}
    if not isinstance(metadata, dict):
        return {}
    return {key: metadata[key] for key in LICENSE if metadata.get(key) is not None}


def license_of_weights(found: Mapping[str, object], repository: str | None) -> License | None:
    """Return the license of weights, as a card can name it.

    Args:
        found: Keys of a card, or what timm says.
        repository: Repository of the weights on the Hub, whose page leads to a license that the Hub
            has no identifier for.

    Returns:
        None if it is not known, or cannot be named in a card.
    """
    try:
        return check_license(*(found.get(key) for key in LICENSE))
    except ValueError:
        name = found.get("license_name") or found.get("license")
        link = _PAGE.format(repository) if repository else None
        try:
            return check_license("other", name, link)
        except ValueError:
            return None


def license_name(found: Mapping[str, object]) -> str | None:
    """Return how a license is called: its identifier, or its own name if the Hub has none."""
    name = found.get("license_name") if found.get("license") == "other" else found.get("license")
    return name if isinstance(name, str) and _FORMS["license"].fullmatch(name) else None


def license_warning(base: Base | None, license: License | None) -> str | None:
    """Return what to tell someone who publishes weights that were made of others.

    Args:
        base: The others; None if there are none.
        license: License that the weights are published under.

    Returns:
        One line, if the license is another one or that of the others restricts use.
    """
    if base is None or base.license is None:
        return None
    given = None if license is None else license.name or license.id
    lead = f"these weights were trained from those of {base.model}, whose license {base.license}"
    restricts = _RESTRICTS.search(base.license) is not None
    if given != base.license:
        also = " restricts use and" if restricts else ""
        return (
            f"{lead}{also} is not the {given or 'none'} that they are published under: make sure "
            "that it allows that"
        )
    if restricts:
        return f"{lead} restricts use: what it forbids with those it forbids with these"
    return None
