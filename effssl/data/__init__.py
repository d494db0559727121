"""Image sources, decoded into batches."""

from effssl.data._decode import decode_image as decode_image
from effssl.data._moved import move_objects as move_objects
from effssl.data._pixels import BrokenImage as BrokenImage
from effssl.data.sources import SAMPLE as SAMPLE
from effssl.data.sources import Source as Source
from effssl.data.sources import load_source as load_source
