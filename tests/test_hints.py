"""Hints for mistyped names."""

import pytest

from effssl.hints import did_you_mean, nearest, nearest_path, option, options_as_flags


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


def test_the_nearest_path_is_one_that_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "train" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "notes.txt").touch()
    assert nearest_path("photos/trian") == "photos/train"
    assert nearest_path("phots/train/cats") == "photos/train/cats"
    assert nearest_path("phots/zzz") == "photos"
    assert nearest_path("PHOTOS/TRAIN") in ("photos", "photos/train")
    assert nearest_path(tmp_path / "photos" / "trai") == str(tmp_path / "photos" / "train")
    assert nearest_path("photos/note.txt") == "photos/notes.txt"
    for other in ("qqqq", "photos", "photos/qqqq", "", "a\0b", "~nobody-of-that-name/x"):
        assert nearest_path(other) is None, other
    assert nearest("phots") == "; the nearest name is 'photos'" and nearest("qqqq") == ""


def test_options_are_fields_but_for_the_command_line():
    assert option("batch_size") == "batch_size"
    with options_as_flags():
        assert option("batch_size") == "--batch-size"
        with options_as_flags(False):
            assert option("batch_size") == "batch_size"
        assert option("lr") == "--lr"
    with pytest.raises(ValueError), options_as_flags():
        raise ValueError
    assert option("lr") == "lr"
