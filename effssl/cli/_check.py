"""Mistakes on the command line, each as one line that says what to type instead."""

from __future__ import annotations

import difflib
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from effssl.cli._options import Option
from effssl.cli._synonyms import advice, command_for, synonyms, value_for
from effssl.hints import nearest
from effssl.hints import option as option_name

_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)")
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"  # those that a text processor makes of a hyphen
_MOST_NAMED = 3


def check_command(args: Sequence[str], commands: Sequence[str]) -> None:
    """Check that the first argument is a command, or asks for help.

    Raises:
        ValueError: If it is not.
    """
    word = args[0]
    if word in commands or word in ("-h", "--help"):
        return
    if word[0] in _DASHES:
        near = difflib.get_close_matches(_bare(word), ["help", "version"], n=1)
        hint = f"did you mean --{near[0]}? " if near else ""
        raise ValueError(f"a command comes before {word}: {hint}{', '.join(commands)}")
    plain = word.lower().replace("_", "-")
    near = [command_for(plain)] if command_for(plain) else []
    near = near or difflib.get_close_matches(plain, commands, n=1)
    hint = f"did you mean effssl {near[0]}? " if near else ""
    raise ValueError(f"there is no command {word!r}; {hint}commands are {', '.join(commands)}")


def check_arguments(command: str, options: Sequence[Option], args: Sequence[str]) -> None:
    """Check that the arguments of a command can be read.

    Args:
        command: Name of the command.
        options: What it takes.
        args: Arguments after the command.

    Raises:
        ValueError: If a flag is unknown, a value is missing or of the wrong type, or there are too
            many words or too few.
    """
    if not {"-h", "--help"}.isdisjoint(args):
        return
    _Walk(command, options).over(args)


def at_least(least: int, name: str, value: int) -> None:
    """Raise ValueError if a value is below the least one that an option may have."""
    if value < least:
        raise ValueError(f"{option_name(name)} must be {least} or more; got {value}")


def no_folder(output: Path) -> FileNotFoundError:
    """Make the error of a file that is to be written into a folder that is not there."""
    return FileNotFoundError(
        f"no folder {str(output.parent)!r} for {option_name('output')} {str(output)!r}"
        f"{nearest(output.parent)}"
    )


@dataclass
class _Walk:
    """Goes through the arguments of a command from left to right."""

    command: str
    options: Sequence[Option]
    given: set[str] = field(default_factory=set)
    words: list[tuple[str, Option | None, str]] = field(default_factory=list)
    """Words without a flag, each with the flag and the value before it."""

    def __post_init__(self) -> None:
        self.flags = {
            name: option
            for option in self.options
            if not option.positional
            for name in (option.name, *option.aliases)
        }

    def over(self, args: Sequence[str]) -> None:
        """Check all arguments."""
        place, before = 0, (None, "")
        while place < len(args):
            word = args[place]
            place += 1
            if not _is_flag(word):
                self.words.append((word, *before))
                continue
            name, equals, attached = word.partition("=")
            option = self._option(name, attached if equals else "".join(args[place : place + 1]))
            most = option.most_words
            values = [attached] if equals else []
            while not equals and len(values) < most and place < len(args):
                if _is_flag(args[place]) or (values and option.takes(values) and most < math.inf):
                    break
                values.append(args[place])
                place += 1
            self._check_value(option, values, args[place : place + 1])
            self.given.add(option.field)
            before = (option, " ".join(values))
        self._check_words()
        self._check_required()

    def _option(self, given: str, value: str) -> Option:
        name = _bare(given)
        if given.startswith("--") and name in self.flags:
            return self.flags[name]
        name = name.lower()
        near, instead = self._same(name), advice(name, self.command, self.flags)
        off = self.flags.get(name.removeprefix("no-"))
        if name.startswith("no-") and off is not None and off.most_words == 0:
            instead = f"{off.label} is off unless it is given"
        if not near and not instead:
            near = self._alike(name)
        said = _hint(near, name, value) if near else instead or self._help()
        raise ValueError(f"effssl {self.command} has no flag {given}: {said}")

    def _same(self, name: str) -> list[Option]:
        """Return the options that are called so, or that other libraries call so."""
        if name in self.flags:  # with one hyphen, or in capitals
            return [self.flags[name]]
        same = synonyms(name)
        found = [option for option in self.options if option.name in same or option.field in same]
        # a word that stands for a positional argument is that of another flag as often
        found = [option for option in found if not option.positional] or found
        return found or [o for o in self.options if o.positional and o.field == name]

    def _alike(self, name: str) -> list[Option]:
        """Return the options that have nearly the letters of a misspelled flag, or begin so."""
        near = difflib.get_close_matches(name, [*self.flags, *_words_for(self.flags)], n=1)
        if near:
            return self._same(near[0])
        return [o for o in self.flags.values() if len(name) > 2 and o.name.startswith(name)][:2]

    def _check_value(self, option: Option, values: list[str], after: Sequence[str]) -> None:
        if option.most_words == 0:
            if values or (after and after[0].lower() in ("true", "false", "1", "0", "yes", "no")):
                said = (values or after)[0]
                off = said.lower() in ("false", "0", "no")
                what = f"leave {option.label} out" if off else f"{option.label} alone sets it"
                raise ValueError(f"{option.label} takes no value, and got {said!r}: {what}")
            return
        if not values:
            raise ValueError(f"{option.label} needs a value: {option.label} {option.metavar}")
        if not option.takes(values):
            near = _near_value(option, values[-1])
            apart = values[0].replace(",", " ").split() if len(values) == 1 else []
            hint = self._misplaced(option, values)
            if len(apart) > 1 and option.takes(apart):
                hint = f"; put spaces between them: {option.label} {' '.join(apart)}"
            raise ValueError(
                f"{option.label} must be {option.wanted()}; got {' '.join(map(repr, values))}"
                f"{f'; did you mean {near!r}?' if near else hint}"
            )

    def _misplaced(self, option: Option, values: list[str]) -> str:
        """Return a hint if the last value is what stands without a flag."""
        wanted = [one for one in self.options if one.positional]
        if option.most_words == math.inf and wanted and len(values) > 1 and not self.words:
            if option.takes(values[:-1]):
                return f"; {wanted[0].metavar} comes before {option.label}"
        return ""

    def _check_words(self) -> None:
        wanted = [option for option in self.options if option.positional]
        extra = self.words[len(wanted) :]
        if not extra:
            return
        for _, flag, value in self.words:
            names = [value, *(word for word, of, _ in self.words if of is flag)]
            if flag is not None and flag.most_words == 1 and len(found := _beside(names)) > 1:
                raise ValueError(
                    f"{flag.label} takes one name, and the shell made {len(found)} of a pattern: "
                    f"quote it, {flag.label} {shlex.quote(_pattern(found))}"
                )
        first, flag, value = extra[0]
        takes = " and ".join(option.metavar for option in wanted)
        takes = f"effssl {self.command} takes {takes or 'only flags'}"
        said = ", ".join(repr(word) for word, *_ in extra[:_MOST_NAMED])
        said += f" and {len(extra) - _MOST_NAMED} more" if len(extra) > _MOST_NAMED else ""
        too = " too" if wanted else ""
        raise ValueError(f"{takes}, and got {said}{too}{self._way_out(first, flag, value)}")

    def _way_out(self, word: str, flag: Option | None, value: str) -> str:
        name, equals, assigned = word.partition("=")
        name = _bare(name).lower()
        if equals and (near := self._same(name) or self._alike(name)):
            return f"; did you mean {near[0].label} {assigned}?"
        if flag is not None and flag.most_words == 1:
            quotes = ", in quotes if it has spaces or a pattern in it" if flag.takes([""]) else ""
            return f"; {flag.label} takes one value{quotes}"
        if flag is not None and flag.field == "resume":
            return f"; --resume takes no value: --output {shlex.quote(word)} names the run"
        if flag is not None:
            return f"; {flag.label} takes {flag.metavar or 'no value'}"
        if "dataset" in self.flags and "dataset" not in self.given:
            return f"; did you mean --dataset {shlex.quote(word)}?"
        return f"; {self._help()}"

    def _check_required(self) -> None:
        wanted = [option for option in self.options if option.positional]
        missing = [o.label for o in wanted[len(self.words) :] if o.required]
        missing += [
            f"{o.label} {o.metavar}"
            for o in self.options
            if o.required and not o.positional and o.field not in self.given
        ]
        if missing:
            raise ValueError(f"effssl {self.command} needs {' and '.join(missing)}; {self._help()}")

    def _help(self) -> str:
        return f"effssl {self.command} --help lists what it takes"


def _hint(near: list[Option], name: str, value: str) -> str:
    """Return what to type instead of a flag that there is not, with the value that was given."""
    if near[0].positional:
        return f"{near[0].metavar} is given without a flag"
    typed = []
    for option in near:
        said = option.metavar if not value or _is_flag(value) else shlex.quote(value)
        if name in _choices(option):  # --fp16 for --precision fp16
            said = name
        typed.append(f"{option.label} {said if option.most_words else ''}".strip())
    return f"did you mean {' or '.join(typed)}?"


def _near_value(option: Option, value: str) -> str | None:
    choices = _choices(option)
    if (same := value_for(value.lower())) in choices:
        return same
    near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.5)
    return near[0] if near else None


def _choices(option: Option) -> list[str]:
    choices = re.match(r"{([^}]*)}", option.metavar)
    return re.findall(r"[\w.-]+", choices[1]) if choices else []


def _words_for(flags: Sequence[str]) -> list[str]:
    """Return other words for some flags."""
    return sorted({word for flag in flags for word in synonyms(flag) if len(word) > 3})


def _beside(names: list[str]) -> list[str]:
    """Return the existing names that the shell may have made of one pattern with the first."""
    there = [name for name in names if os.path.exists(name)]
    if names[0] not in there:
        return []
    same = [name for name in there if os.path.dirname(name) == os.path.dirname(names[0])]
    return same if len(same) > 1 else there


def _pattern(names: list[str]) -> str:
    """Return a pattern that stands for all names, as far as it can be told."""
    folders = {os.path.dirname(name) for name in names}
    suffixes = {os.path.splitext(name)[1] for name in names}
    folder = folders.pop() if len(folders) == 1 else os.path.commonpath(names)
    suffix = suffixes.pop() if len(suffixes) == 1 else ""
    return os.path.join(folder, f"*{suffix}")


def _bare(flag: str) -> str:
    return flag.lstrip(_DASHES).replace("_", "-")


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word[0] in _DASHES and not _NUMBER.match(word)
