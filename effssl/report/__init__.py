"""A run as one HTML file."""

from effssl.report.page import write_report as write_report
