"""Broken images: a share of all, rounded up, is allowed; the error names the first ten."""

import pytest

from effssl.data._broken import BrokenImages, allowed_broken, check_broken


def test_one_per_cent_is_allowed_and_more_is_not():
    check_broken([f"{i}.jpg: torn" for i in range(10)], 1000)
    with pytest.raises(ValueError, match="11 of the 1,000 images cannot be read so far") as error:
        check_broken([f"{i}.jpg: torn" for i in range(11)], 1000)
    assert "0.jpg: torn; " in str(error.value) and "9.jpg: torn; and 1 more" in str(error.value)
    assert "10.jpg" not in str(error.value)


def test_the_share_is_rounded_up_so_that_one_broken_image_never_ends_the_work():
    assert [allowed_broken(count, 0.01) for count in (2, 99, 100, 101, 1000)] == [1, 1, 1, 2, 10]
    assert allowed_broken(100, 0.07) == 7  # 0.07 * 100 is above 7 in floating point
    assert (allowed_broken(50, 0), allowed_broken(50, 1)) == (0, 50)
    check_broken(["a.jpg: torn"], 2)
    with pytest.raises(ValueError, match="2 of the 3 images .* than the 1 that max_broken 0.01"):
        check_broken(["a.jpg: torn", "b.jpg: torn"], 3)
    with pytest.raises(ValueError, match="1 of the 500 .* the 0 that max_broken 0 allows"):
        check_broken(["a.jpg: torn"], 500, 0)
    check_broken(["a.jpg: torn", "b.jpg: torn"], 3, 0.5)


def test_images_that_are_all_broken_end_the_work_whatever_is_allowed():
    with pytest.raises(ValueError, match="none of the 2 images can be read: a: torn; b: torn"):
        check_broken(["a: torn", "b: torn"], 2, 1)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="max_broken is a share of the images, 0 to 1; got"):
        BrokenImages(10, max_broken=share)


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
