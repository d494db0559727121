"""The ``effssl`` command: one file a subcommand, none of which imports torch before it runs."""

from effssl.cli._main import expand_config as expand_config
from effssl.cli._main import main as main
from effssl.cli._main import run as run
