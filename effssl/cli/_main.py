"""Parse the command line, run one subcommand, and print bad input as one line."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from effssl.cli._check import check_arguments, check_command
from effssl.cli._last_line import write_below_launcher
from effssl.cli._model import is_main_process
from effssl.cli._options import options_of, registry
from effssl.cli.cache import Cache
from effssl.cli.evaluate import Evaluate
from effssl.cli.features import Features
from effssl.cli.list import ListModels
from effssl.cli.pretrain import Pretrain
from effssl.cli.push import Push
from effssl.cli.recommend import Recommend
from effssl.cli.report import Report
from effssl.cli.views import Views
from effssl.hints import options_as_flags
from effssl.own import is_own
from effssl.progress import Stage
from effssl.shown import one_line, plain, shown
from effssl.training._fields import names_where
from effssl.training.config import PretrainConfig
from effssl.version import __version__

logger = logging.getLogger(__name__)

COMMANDS = {
    "pretrain": Pretrain,
    "evaluate": Evaluate,
    "features": Features,
    "report": Report,
    "views": Views,
    "push": Push,
    "list": ListModels,
    "cache": Cache,
    "recommend": Recommend,
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the ``effssl`` command.

    Args:
        args: Arguments after ``effssl``; those of this process if None.
    """
    args = list(sys.argv[1:] if args is None else args) or ["--help"]
    if args == ["--version"]:
        print(f"effssl {__version__}")
        return

    def command() -> None:
        if args[:1] == ["pretrain"]:
            args[1:] = expand_config(args[1:])
        parse(args).run()

    run(command)


def parse(
    args: Sequence[str],
) -> Pretrain | Evaluate | Features | Report | Views | Push | ListModels | Cache | Recommend:
    """Parse the arguments after ``effssl`` without running anything.

    Raises:
        SystemExit: If they ask for help.
        ValueError: If they do not parse, or a value of `PretrainConfig` is out of bounds.
    """
    check_command(args, list(COMMANDS))
    if args[0] in COMMANDS:
        check_arguments(args[0], options_of(COMMANDS[args[0]]), args[1:])
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), registry():
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="effssl",
                description="Pretrain an image backbone without labels, and measure its features. "
                "effssl COMMAND --help lists the flags of a command, effssl --version the version.",
                args=args,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as ended:
        if ended.code in (None, 0):
            raise
        raise ValueError(_without_box(complaint.getvalue())) from ended


def _without_box(text: str) -> str:
    """Return what tyro says in a box, above the rule in it, as one line."""
    said = re.split(r"\n\W*[\u2500-]{9,}\W*\n", text)[0]
    return one_line(re.sub(r"[\u2500-\u257f]+", " ", said))


def run(command: Callable[[], object]) -> None:
    """Run a function with its log on stderr; bad input becomes one line there and exit code 2."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("effssl").setLevel(logging.INFO if is_main_process() else logging.ERROR)
    try:
        # the stage shows in a log while nothing else does
        with options_as_flags(), Stage("effssl is at work", command=True):
            command()
    except BrokenPipeError:  # what reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (ValueError, OSError, FloatingPointError) as error:
        # one line a machine, whose data may differ; each process may know of another lost one
        if os.environ.get("LOCAL_RANK", "0") == "0" or isinstance(error, ConnectionError):
            print(f"effssl: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        from effssl.distributed import is_lost_connection

        if _is_out_of_memory(error):
            print(f"effssl: error: not enough memory: {one_line(error, 300)}", file=sys.stderr)
            sys.exit(2)
        if not is_lost_connection(error):
            raise
        print("effssl: error: another process ended, and says above why", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if is_main_process():
            line = "effssl: interrupted; a run goes on with --resume"
            print(line, file=sys.stderr)
            write_below_launcher(line)
        sys.exit(130)


class _PlainFormatter(logging.Formatter):
    """Shows names that come from others without the characters that control a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  as logging names it
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return plain(super().formatException(ei), 20_000, keep="\n")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether torch could not allocate a tensor, on a GPU or on the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def expand_config(args: Sequence[str]) -> list[str]:
    """Replace ``--config FILE`` by the flags of that file, before all other flags.

    What others wrote may not say where to write and what to delete: output, resume and overwrite
    are never taken from it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no configuration of this version.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, others = parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise ValueError(f"{error}: give the config.json of a run") from error
    if known.config is None:
        return list(args)
    config = PretrainConfig.load(known.config)
    without = names_where(config, "from_file", False)
    given = {arg.partition("=")[0] for arg in others}
    for name in ("loss", "preset"):
        code = getattr(config, name)
        if not is_own(code) or (name == "preset" and config.view.is_whole):
            continue
        if f"--{name}" not in given:
            raise ValueError(
                f"{known.config} names code of one's own, {name} {shown(code)}, which is not "
                f"imported from a file: give --{name} {code} too, if you trust it"
            )
        without.add(name)
    if config.output is not None and not any(a.partition("=")[0] == "--output" for a in others):
        said = shown(config.output)
        logger.warning("output %s of %s is not taken from it: give --output", said, known.config)
    return [*config.flags(without), *others]
