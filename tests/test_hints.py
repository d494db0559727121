"""Hints for mistyped names."""

import pytest

from effssl.hints import did_you_mean


@pytest.mark.parametrize(
    "name, most, hint",
    [
        ("viewz", 1, "did you mean 'views'? "),
        ("adamv", 2, "did you mean 'adam', 'adamw'? "),
        ("qqqq", 3, ""),
        (None, 1, ""),
    ],
)
def test_the_closest_names_are_given(name, most, hint):
    assert did_you_mean(name, ["views", "adam", "adamw", "loss"], most=most) == hint
