"""``effssl list``."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import tyro

from effssl.shown import one_line


@dataclasses.dataclass(frozen=True)
class ListModels:
    """List the models in the package and on the Hub, or without a connection those in the cache."""

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    """Pattern of the id, or of the part after its owner, such as '*-bt-*'."""
    author: Annotated[str | None, tyro.conf.arg(metavar="OWNER")] = None
    """User or organization that owns the models."""

    def run(self) -> None:
        """Print an id a line."""
        from effssl.hub.pull import list_pretrained

        ids = list_pretrained(self.pattern, author=self.author)
        for repo_id in ids:
            print(one_line(repo_id))
        if not ids:
            print(f"no model of effssl matches {self.pattern!r}", file=sys.stderr)
