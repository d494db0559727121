"""Metadata of a card: values that effssl makes, and values that a person wrote or changed.

A comment in the card holds a digest of each value that was made. A value that differs from it was
changed by hand and stays as it is; one that a person deleted is made again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from effssl.hub._license import LICENSE, License, check_license
from effssl.hub._yaml import dump_yaml
from effssl.loss_specs import LOSSES

TAGS = ("timm", "transformers", "effssl", "self-supervised-learning")
"""Tags of every card."""
_MADE = ("library_name", "pipeline_tag", "datasets", "base_model", "model-index")
_COMMENT = "<!-- effssl made: {} -->"


def digest(value: object) -> str:
    """Return a digest of plain values, 16 hexadecimal digits."""
    return hashlib.sha256(dump_yaml(value, sort_keys=True).encode()).hexdigest()[:16]


def comment(made: Mapping[str, str]) -> str:
    """Return the comment that holds the digests of what was made."""
    return _COMMENT.format(", ".join(f"{key} {value}" for key, value in made.items()))


def parse_comment(text: str) -> dict[str, str] | None:
    """Return what `comment` wrote into a text; None if there is no such comment."""
    found = re.search(_COMMENT.format("([a-z0-9_, -]*)"), text)
    if not found:
        return None
    return dict(re.findall(r"([a-z_-]+) ([0-9a-f]{16})", found[1]))


def digests(made: Mapping[str, Any]) -> dict[str, str]:
    """Return the digest of every value that was made, by its key."""
    return {key: digest(made[key]) for key in _MADE if key in made}


def by_hand(metadata: Mapping[str, Any], before: Mapping[str, str]) -> dict[str, Any]:
    """Return what a person wrote, but for the license.

    Args:
        metadata: Metadata of a card.
        before: Digests of the values that were made for it.
    """
    tags = metadata.get("tags") or []
    tags = {str(tag) for tag in (tags if isinstance(tags, list) else [tags])}
    made = {*TAGS, *(spec.card_tag for spec in LOSSES.values())}
    others = {
        key: value
        for key, value in metadata.items()
        if key not in LICENSE and (key not in before or digest(value) != before[key])
    }
    return others | {"tags": sorted(tags - made)}


def merged(
    made: Mapping[str, Any], written: Mapping[str, Any], license: License | None
) -> dict[str, Any]:
    """Return the metadata of a card: what a person wrote takes the place of what was made."""
    found: dict[str, Any] = {}
    for key, value in made.items():
        if key == "pipeline_tag" and license is not None:
            found |= license.metadata()
        found[key] = value
    return found | written | {"tags": [*made["tags"], *written["tags"]]}


def license_of(metadata: Mapping[str, Any], where: str) -> License | None:
    """Return the license that a card names.

    Raises:
        ValueError: If the Hub does not know it.
    """
    return check_license(*(metadata.get(key) for key in LICENSE), where=where)
