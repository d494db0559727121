"""Files of others: what is no regular file, too large, too deep or of another type is one line."""

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effssl.foreign import check_type, load_json, open_regular, parse_json, read_bytes, read_json
from effssl.shown import one_line, plain, shown


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_regular_file_is_not_read_or_waited_for(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = Path("file")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        read_json(path)
    assert "file" in str(caught.value)


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 10)
    assert read_bytes(tmp_path / "f", 10) == b"x" * 10
    with pytest.raises(ValueError, match="f has 10 bytes; 9 are read at most"):
        read_bytes(tmp_path / "f", 9)
    with open_regular(tmp_path / "f") as file:
        assert file.read() == b"x" * 10


DEEP = [b"[" * 100_000, b'{"a":' * 50_000, b"[" * 33 + b"]" * 33, b"[[" * 500 + b"]]" * 500]


@pytest.mark.parametrize(
    "content",
    [
        *DEEP,
        b"1" * 10_000,
        b'{"a": ' + b"9" * 401 + b"}",
        b'{"a": 1, "a": 2}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"\xff\xfe[\x00",
        b"[1",
        b"",
        b"\x00",
        b"{'a': 1}",
    ],
)
def test_json_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "f.json").write_bytes(content)
    with pytest.raises(ValueError, match="f.json is not valid JSON") as caught:
        read_json(tmp_path / "f.json")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_json_that_is_no_object_says_what_it_is(tmp_path):
    (tmp_path / "f.json").write_text("[1]")
    assert load_json(tmp_path / "f.json") == [1]
    with pytest.raises(ValueError, match=r"holds \[1\], and not an object"):
        read_json(tmp_path / "f.json")


def test_plain_json_is_read_as_ever():
    assert parse_json('{"a": [1, 2.5, null, true, "zwölf", {}], "b": -9}') == {
        "a": [1, 2.5, None, True, "zwölf", {}],
        "b": -9,
    }
    assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"  # a pair is one character


@pytest.mark.parametrize(
    "value, hint, message",
    [
        (True, int, "x must be a whole number, is True"),
        (1, bool, "x must be true or false, is 1"),
        (1.0, int, "x must be a whole number"),
        ("1", float, "x must be a number, is '1'"),
        (None, str, "x must be text, is None"),
        ([1, "b"], list[int], "an item of x must be a whole number, is 'b'"),
        ({"a": {"b": [None]}}, dict[str, dict[str, list[float]]], "an item of x.a.b must be"),
        ([], dict[str, int] | None, "x must be an object or null"),
    ],
)
def test_a_value_of_another_type_is_named(value, hint, message):
    with pytest.raises(ValueError) as caught:
        check_type(value, hint, "x")
    assert message in str(caught.value)


def test_values_of_their_type_pass():
    for value, hint in (
        (1, float),
        (None, float | None),
        ({"a": [1, 2.0]}, dict[str, list[float]]),
    ):
        check_type(value, hint, "x")


ESCAPES = "\x1b[2J\x1b]0;owned\x07 \x9b31m \x7f \r\n \u202e \u2028 \u200b \ud800 \x00"


def test_text_of_others_reaches_the_terminal_without_control_characters():
    for made in (plain(ESCAPES), one_line(ESCAPES), shown(ESCAPES)):
        assert made.isprintable() and made.isascii()
    assert plain("zwölf 漢字 \U0001f600") == "zwölf 漢字 \U0001f600"
    assert plain("a\nb", keep="\n") == "a\nb" and one_line("a\n  b\t c ") == "a b c"
    assert plain("\x1b[31m") == "\\x1b[31m"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(), st.integers(4, 50))
def test_any_text_is_bounded_and_printable(text, most):
    for made in (plain(text, most), one_line(text, most), shown(text, most)):
        assert len(made) <= most
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or "\ud800" <= c < "\ue000" for c in made)
