"""The license of a model's weights, by the identifiers that the Hub knows."""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from dataclasses import dataclass

from effssl.hints import did_you_mean, option

LICENSE = ("license", "license_name", "license_link")
"""Keys of a card."""
_LIST = "https://huggingface.co/docs/hub/repositories-licenses"
_NAME = re.compile(r"[\w.+-][\w .+-]{0,99}", re.ASCII)
# an address without user and password, or a file in the repository
_LINK = re.compile(
    r"https?://[\w.~:%-]{1,250}([/?#][\w.~:/?#@!$&*+,;=%-]{0,500})?|LICENSE(\.[a-z]{1,10})?",
    re.ASCII,
)


@dataclass(frozen=True)
class License:
    """A license of weights.

    Attributes:
        id: Identifier on the Hub, such as ``apache-2.0``; ``other`` for one that it does not know.
        name: Name of another license; None for one that the Hub knows.
        link: Address of its text, or LICENSE for a file of the repository; None likewise.
    """

    id: str
    name: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.id if self.name is None else f"{self.name} ({self.link})"

    def metadata(self) -> dict[str, str]:
        """Return the keys of a card."""
        values = (self.id, self.name, self.link)
        return {k: v for k, v in zip(LICENSE, values, strict=True) if v is not None}


@functools.cache
def known_licenses() -> tuple[str, ...]:
    """Return the identifiers on the Hub, from the list in the package."""
    file = importlib.resources.files("effssl.hub") / "licenses.json"
    return tuple(json.loads(file.read_text(encoding="utf-8"))["licenses"])


def check_license(
    license: object, name: object = None, link: object = None, *, where: str = ""
) -> License | None:
    """Check a license against the list of the Hub, and return it; None if there is none.

    Args:
        license: Identifier on the Hub.
        name: Name of the license, if it is ``other``.
        link: Address of its text, or the name of a file in the repository that begins with
            LICENSE, if it is ``other``.
        where: What said it, for the error.

    Raises:
        ValueError: If the Hub does not know it, name and link are missing for ``other``, or given
            for a license that the Hub knows.
    """
    lead = f"{where}: " if where else ""
    field, its_name, its_link = (  # a card has the words of Python
        word if where else option(word) for word in ("license", "license_name", "license_link")
    )
    if license is None:
        if name is not None or link is not None:
            raise ValueError(f"{lead}{its_name} and {its_link} need the license 'other'")
        return None
    if license not in known_licenses():
        hint = did_you_mean(str(license).lower(), known_licenses(), most=3)
        raise ValueError(
            f"{lead}{field} {str(license)[:80]!r} is not one that the Hub knows: {hint}give one of "
            f"{_LIST}, or 'other' with its {its_name} and {its_link}"
        )
    if license != "other":
        if name is not None or link is not None:
            raise ValueError(
                f"{lead}{its_name} and {its_link} are for {field} 'other', not {license!r}: "
                "leave them out"
            )
        return License(str(license))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        given = "is missing" if name is None else f"cannot be {str(name)[:80]!r}"
        raise ValueError(
            f"{lead}{field} 'other' needs a {its_name} such as my-license-1.0, which {given}"
        )
    if not isinstance(link, str) or not _LINK.fullmatch(link):
        given = "is missing" if link is None else f"cannot be {str(link)[:80]!r}"
        raise ValueError(
            f"{lead}{field} 'other' needs a {its_link} to its text, an https address or LICENSE "
            f"for a file of the repository, which {given}"
        )
    return License("other", name, link)
