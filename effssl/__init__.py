"""Self-supervised vision pretraining with small projectors and many views.

Public names are imported on first use, so ``import effssl`` imports neither torch nor timm.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effssl.version import __version__ as __version__

if TYPE_CHECKING:
    from effssl import backbones as backbones
    from effssl import data as data
    from effssl import evaluation as evaluation
    from effssl import losses as losses
    from effssl import views as views
    from effssl.hub._folder import save_pretrained as save_pretrained
    from effssl.hub.features import extract_features as extract_features
    from effssl.hub.pull import from_pretrained as from_pretrained
    from effssl.hub.pull import list_pretrained as list_pretrained
    from effssl.hub.push import push_to_hub as push_to_hub
    from effssl.losses import create_loss as create_loss
    from effssl.model import SSLModel as SSLModel
    from effssl.model import create_model as create_model
    from effssl.recommendation import recommend as recommend
    from effssl.timm_backbone import list_models as list_models
    from effssl.training.config import PretrainConfig as PretrainConfig
    from effssl.training.loop import pretrain as pretrain
    from effssl.transform import create_transform as create_transform
    from effssl.views.multi_view import MultiView as MultiView

_MODULES = ("backbones", "data", "evaluation", "losses", "views")
_NAMES = {
    "MultiView": "effssl.views.multi_view",
    "PretrainConfig": "effssl.training.config",
    "SSLModel": "effssl.model",
    "create_loss": "effssl.losses",
    "create_model": "effssl.model",
    "create_transform": "effssl.transform",
    "extract_features": "effssl.hub.features",
    "from_pretrained": "effssl.hub.pull",
    "list_models": "effssl.timm_backbone",
    "list_pretrained": "effssl.hub.pull",
    "pretrain": "effssl.training.loop",
    "push_to_hub": "effssl.hub.push",
    "recommend": "effssl.recommendation",
    "save_pretrained": "effssl.hub._folder",
}
__all__ = ["__version__", *_MODULES, *_NAMES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"effssl.{name}")
    if name in _NAMES:
        value = globals()[name] = getattr(importlib.import_module(_NAMES[name]), name)
        return value
    raise AttributeError(f"module 'effssl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
