"""``effssl cache``."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Annotated

import tyro

from effssl.hints import option
from effssl.shown import one_line, plain

if TYPE_CHECKING:
    from effssl.data._cache_list import CacheEntry


@dataclasses.dataclass(frozen=True)
class Cache:
    """List the decoded images under HF_HOME, the longest unused first, or delete some.

    What is deleted is decoded anew when it is needed. What a running process uses stays.
    """

    delete: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Names of those to delete, as they are listed."""
    delete_older_than: Annotated[float | None, tyro.conf.arg(metavar="DAYS")] = None
    """Delete those that were not used for this many days."""
    delete_all: bool = False
    """Delete all."""

    def run(self) -> None:
        """Print a line for each, and what was deleted."""
        from effssl.data._cache_list import cache_folder, list_caches

        entries = list_caches()
        chosen = self._chosen(entries)
        if chosen is not None:
            _delete(chosen)
            return
        for entry in entries:
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
            print(plain(f"{entry.name:32}  {_size(entry.bytes):>8}  {used}  {entry.about}"))
        total = _size(sum(e.bytes for e in entries))
        print(plain(f"{'total':32}  {total:>8}  in {cache_folder()}"))

    def _chosen(self, entries: list[CacheEntry]) -> list[CacheEntry] | None:
        """Return the entries to delete, or None if nothing is to be deleted."""
        days = self.delete_older_than
        if (len(self.delete) > 0) + (days is not None) + self.delete_all > 1:
            raise ValueError("give one of --delete, --delete-older-than and --delete-all")
        if days is not None and not days >= 0:
            raise ValueError(f"{option('delete_older_than')} must be 0 days or more; got {days}")
        unknown = set(self.delete) - {entry.name for entry in entries}
        if unknown:
            raise ValueError(
                f"nothing in the cache is called {', '.join(sorted(unknown))}: `effssl cache` "
                "lists the names"
            )
        if self.delete_all:
            return entries
        if days is not None:
            return [entry for entry in entries if time.time() - entry.used > 86_400 * days]
        return [entry for entry in entries if entry.name in self.delete] if self.delete else None


def _delete(entries: list[CacheEntry]) -> None:
    from effssl.data._cache_list import delete_cache

    freed, kept = 0, []
    for entry in entries:
        try:
            delete_cache(entry)
        except OSError as error:
            kept.append(entry.name)
            print(one_line(f"kept {entry.name}: {error}"), file=sys.stderr)
            continue
        freed += entry.bytes
        print(plain(f"deleted {entry.name}, {_size(entry.bytes)}: {entry.about}"))
    print(f"freed {_size(freed)}")
    if kept:
        sys.exit(2)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.{0 if unit == 'B' else 1}f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
