"""Random views of images, batched."""

from effssl.views.multi_view import PRESETS as PRESETS
from effssl.views.multi_view import MultiView as MultiView
from effssl.views.multi_view import ViewOptions as ViewOptions
