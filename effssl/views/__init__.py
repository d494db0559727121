"""Random views of a batch of images.

`MultiView` is imported on first use, so that reading options imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from effssl.views.options import PRESETS as PRESETS
from effssl.views.options import ViewOptions as ViewOptions

if TYPE_CHECKING:
    from effssl.views.multi_view import MultiView as MultiView

__all__ = ["PRESETS", "MultiView", "ViewOptions"]


def __getattr__(name: str) -> Any:
    if name == "MultiView":
        from effssl.views.multi_view import MultiView

        globals()[name] = MultiView
        return MultiView
    raise AttributeError(f"module 'effssl.views' has no attribute {name!r}")
