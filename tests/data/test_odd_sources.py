"""Names, columns and errors that no data set should have end in one line."""

import pytest
from datasets import Dataset
from PIL import Image

from effssl.data import _readers, load_source, sources


def one_line(info):
    return len(str(info.value).splitlines()) == 1


def test_the_home_of_an_unknown_user_is_one_line():
    with pytest.raises(FileNotFoundError, match="no data set at '~nouser-effssl/x'") as info:
        load_source("~nouser-effssl/x")
    assert one_line(info)


def test_an_empty_name_is_not_the_current_folder(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the name is empty") as info:
        load_source("", in_chans=1)
    assert one_line(info)


def test_the_images_are_no_labels(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="label_column 'image' is the column with the images"):
        load_source(str(tmp_path), in_chans=1, label_column="image")
    images = [{"bytes": (tmp_path / "a.png").read_bytes(), "path": None}]
    source = load_source(Dataset.from_dict({"label": images}), in_chans=1)
    assert (source.image_column, source.label_column) == ("label", None)


@pytest.mark.parametrize(
    "error",
    [TypeError, RecursionError, ImportError, KeyError, AttributeError, AssertionError]
    + [NotImplementedError],
)
def test_any_error_while_a_data_set_is_opened_is_one_line_with_its_name(monkeypatch, error):
    def fail(*arguments):
        raise error("a\nb")

    monkeypatch.setattr(sources, "read", fail)
    with pytest.raises(ValueError, match=f"data set 'photos'.*{error.__name__}: .*a") as info:
        load_source("photos")
    assert one_line(info)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_is_no_fault_of_a_data_set_stays(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(sources, "read", fail)
    with pytest.raises(error):
        load_source("photos")


def test_an_object_that_is_no_data_set_stays_a_type_error():
    with pytest.raises(TypeError, match="a int is no data set"):
        load_source(5)
    assert not _readers.is_public("~nouser-effssl/x")
