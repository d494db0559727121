"""Model folders."""

from effssl.hub.folder import from_pretrained as from_pretrained
from effssl.hub.folder import save_pretrained as save_pretrained
