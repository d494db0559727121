"""Text of others in messages: on one line, bounded in length, and without control characters."""

from __future__ import annotations

import re
import unicodedata

_MOST = 2000
# control, format (such as those that turn the direction of text), surrogates, line separators
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def shown(value: object, most: int = 80) -> str:
    """Format a value of others for a message: one line of ASCII, cut if long.

    Args:
        value: Any value, of any size.
        most: Largest number of characters.
    """
    return shortened(ascii(value), most)


def plain(text: str, most: int = _MOST, *, keep: str = "") -> str:
    """Replace what a terminal would not show as a character, and cut what is long.

    Args:
        text: Text that may hold names from others.
        most: Largest number of characters.
        keep: Characters to keep, such as a line feed.
    """
    text = text[: most + 1]
    if not text.isprintable():
        text = "".join(c if c in keep or not _is_unseen(c) else _escaped(c) for c in text)
    return shortened(text, most)


def one_line(text: object, most: int = _MOST) -> str:
    """Join the lines of a message to one that a terminal shows as it is."""
    return plain(re.sub(r"\s+", " ", str(text)).strip(), most)


def shortened(text: str, most: int) -> str:
    """Cut a text that is longer than so many characters."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) in _UNSEEN


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]
