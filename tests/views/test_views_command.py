"""``effssl views``, and the lines that commands print for wrong view options."""

import pytest
from PIL import Image, ImageChops

from effssl.cli import main

ERRORS = {
    "--view.flip 2": "--view.flip must be a number, 0 to 1; got 2.0",
    "--view.scale 1 0.2": "--view.scale must be two numbers LOW HIGH with 0 < LOW <= HIGH",
    "--view.blur": "--view.blur needs a value: --view.blur FLOAT ...",
    "--view.rotate nan": "--view.rotate must be a number, 0 to 180; got nan",
    "--view.mean 0.1 0.2": "--view.mean must be 1 or 3 values, one a channel; got 2",
    "--view.solarize 0 0 0 0 1": "--view.solarize must be one value for each of 4 views, or fewer",
}


def draw(images, output, *options):
    size = ["--img-size", "32", "--images", "2", "--views", "3"]
    main(["views", "--dataset", str(images), "--output", str(output), *size, *options])
    return Image.open(output).convert("RGB")


def test_the_picture_shows_what_the_options_do(tmp_path, image_folder):
    still = "--view.scale 1 1 --view.ratio 1 1 --view.jitter 0 --view.grey 0 --view.blur 0"
    options = f"{still} --view.solarize 0 --view.flip 0".split()
    plain = draw(image_folder, tmp_path / "plain.png", *options)
    turned = draw(image_folder, tmp_path / "turned.png", *options, "--view.vertical-flip", "1")
    one_view = [plain.crop((104 + 100 * v, 24, 200 + 100 * v, 120)) for v in range(3)]
    assert one_view[0].tobytes() == one_view[1].tobytes() == one_view[2].tobytes()
    other = turned.crop((104, 24, 200, 120))
    assert other.tobytes() != one_view[0].tobytes()
    other = other.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    assert ImageChops.difference(other, one_view[0]).getbbox() is None


@pytest.mark.parametrize("command", ["pretrain", "views"])
@pytest.mark.parametrize("flags", ERRORS)
def test_a_wrong_view_option_is_one_line(command, flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, *flags.split()])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"effssl: error: {ERRORS[flags]}")
