"""Random views of a batch of images."""

from effssl.views.multi_view import MultiView as MultiView
from effssl.views.options import PRESETS as PRESETS
from effssl.views.options import ViewOptions as ViewOptions
