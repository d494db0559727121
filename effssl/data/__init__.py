"""Image sources, decoded into batches."""

from effssl.data.sources import SAMPLE as SAMPLE
from effssl.data.sources import Source as Source
from effssl.data.sources import load_source as load_source
