"""Pairs of views that a loss compares: all, or those with a global view."""

from __future__ import annotations


def check_global_views(global_views: int | None, views: int) -> int:
    """Return the number of global views, which come first; all views if None.

    Raises:
        ValueError: If it is below 1 or above the number of views.
    """
    if global_views is None:
        return views
    if not 1 <= global_views <= views:
        raise ValueError(
            f"global_views must be from 1 to the {views} views of the projections, or None for "
            f"all; got {global_views}"
        )
    return global_views


def count_pairs(views: int, global_views: int) -> int:
    """Return the number of pairs a < b of V views of which a is one of the G global ones."""
    return global_views * (global_views - 1) // 2 + global_views * (views - global_views)


def mean_partners(views: int, global_views: int) -> float:
    """Return the mean over views of the number of views that each is compared with."""
    return 2 * count_pairs(views, global_views) / views  # V - 1, exactly, if all are global
