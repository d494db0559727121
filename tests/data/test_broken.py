"""Broken images: one per cent is the limit, and the error names the first ten."""

import pytest

from effssl.data._broken import BrokenImages, check_broken


def test_one_per_cent_is_allowed_and_more_is_not():
    check_broken([f"{i}.jpg: torn" for i in range(10)], 1000)
    with pytest.raises(ValueError, match="11 of the 1,000 images cannot be read so far") as error:
        check_broken([f"{i}.jpg: torn" for i in range(11)], 1000)
    assert "0.jpg: torn; " in str(error.value) and "9.jpg: torn; and 1 more" in str(error.value)
    assert "10.jpg" not in str(error.value)


def test_an_image_that_is_met_in_every_epoch_is_counted_and_named_once(caplog):
    broken = BrokenImages(1000)
    for _ in range(3):
        broken.add(["a.jpg: torn", "b.jpg: empty"])
        broken.share()
    assert len(broken) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "skipped a broken image: a.jpg: torn",
        "skipped a broken image: b.jpg: empty",
    ]
