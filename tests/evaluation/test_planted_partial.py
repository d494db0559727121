"""Whatever is planted in the folder of an extraction, it ends in one line and soon."""

import os

import pytest

from effssl.data import load_source
from effssl.evaluation._feature_file import FeatureFile
from effssl.evaluation._feature_output import is_laid_out
from effssl.evaluation._partial_folder import partial_folder

FINGERPRINT = "0123456789abcdef"


def opened(output):
    source = load_source("fashion-mnist-sample", "train[:8]", in_chans=1)
    return FeatureFile(output, source, 4, 2, FINGERPRINT)


@pytest.fixture
def partial(tmp_path):
    """Folder of an extraction that was killed."""
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "x.safetensors"):
        raise KeyboardInterrupt
    return partial_folder(tmp_path / "x.safetensors", FINGERPRINT)


def test_a_lock_that_is_a_pipe_is_refused(tmp_path, partial):
    (partial / "extraction.lock").unlink(missing_ok=True)
    os.mkfifo(partial / "extraction.lock")
    with pytest.raises(OSError, match="extraction.lock is not a regular file: delete it"):
        opened(tmp_path / "x.safetensors")
    reader = os.open(partial / "extraction.lock", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="extraction.lock is not a regular file: delete it"):
        opened(tmp_path / "x.safetensors")
    os.close(reader)


def test_the_lock_of_a_leftover_that_is_a_pipe_hinders_nobody(tmp_path, partial):
    other = partial.with_name("x.safetensors.000000000000.partial")
    other.mkdir()
    os.mkfifo(other / "extraction.lock")
    with opened(tmp_path / "x.safetensors") as file:
        assert file.progress() == ([0, 1], {})
    file.held.close()


@pytest.mark.parametrize("kind", ["pipe", "link", "device"])
def test_a_record_that_is_no_regular_file_is_refused(tmp_path, partial, kind):
    if kind == "pipe":
        os.mkfifo(partial / "done-x")
    else:
        (partial / "done-x").symlink_to("/dev/zero" if kind == "device" else tmp_path / "none")
    with (
        pytest.raises(ValueError, match="done-x is .*delete"),
        opened(tmp_path / "x.safetensors") as file,
    ):
        file.progress()


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "[[1], 5]",
        "[1]",
        "[1, [2]]",
        "[true, {}]",
        '[1, {"x": "y"}]',
        '[1, {"1": 2}]',
        "[" * 5000,
    ],
)
def test_a_record_of_something_else_is_one_line(tmp_path, partial, line):
    (partial / "done-x").write_text(f"{line}\n")
    with (
        pytest.raises(ValueError, match="done-x holds .*, and not a batch: delete") as info,
        opened(tmp_path / "x.safetensors") as file,
    ):
        file.progress()
    assert len(str(info.value).splitlines()) == 1 and len(str(info.value)) < 1000


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, '{"features": 5}', '{"features": {"data_offsets": [0.5, 9]}}', "[]"],
)
def test_a_file_with_another_header_is_made_anew(tmp_path, partial, text):
    path = partial / "features.safetensors"
    content = text.encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content)
    assert not is_laid_out(path)
    with opened(tmp_path / "x.safetensors"):
        assert is_laid_out(path)
