"""YAML of others: metadata of a card, without aliases and tags, in bounds of size and depth."""

from __future__ import annotations

import re
from typing import Any

import yaml

from effssl.shown import one_line, shown

_MOST = 200_000  # characters
_DEPTH = 16
# As in YAML 1.2, which the Hub reads: PyYAML alone takes the language "no" for false.
_PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]{0,17})", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]{1,2})?",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}


def parse_yaml(text: str) -> Any:
    """Parse YAML of plain values, lists and pairs.

    Raises:
        ValueError: If it is no YAML, long, nested too deep, or has an alias, a tag or a key that is
            not text.
    """
    if len(text) > _MOST:
        raise ValueError(f"it has {len(text):,} characters; {_MOST:,} are read at most")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # a safe loader
    # what the constructors of numbers raise of bad ones
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(one_line(error, 300)) from error


def dump_yaml(value: Any, *, sort_keys: bool = False) -> str:
    """Write plain values, lists and pairs as YAML, without aliases."""
    return yaml.dump(value, Dumper=_PlainDumper, sort_keys=sort_keys, allow_unicode=True)


class _PlainLoader(yaml.SafeLoader):
    """Loader that refuses what makes a short text long, or a value more than a plain one."""

    yaml_implicit_resolvers: dict = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError("it has an alias, which is not read: write the value out")
        if getattr(event, "tag", None):
            raise yaml.YAMLError("it has a tag, which is not read: leave it out")
        self.depth += 1
        if self.depth > _DEPTH:
            raise yaml.YAMLError(f"it is nested more than {_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        found = super().construct_mapping(node, deep)
        for key in found:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {shown(key)} is not text: put it in quotes")
        return found


class _PlainDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind, (_pattern, _first) in _PLAIN.items():
    for _side in (_PlainLoader, _PlainDumper):  # texts that look like them are written in quotes
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )
