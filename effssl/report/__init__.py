"""Report of a run as one HTML file."""

from effssl.report._page import write_report as write_report
