"""Images of strangers: each gives pixels or is broken, in bounded time and memory."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from effssl.data import BrokenImage, decode_image, load_source
from effssl.data._decode import image_size, stored_values
from effssl.data._jpeg import MOST_SCANS


def noise(*shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


def encoded(format, **options):
    file = io.BytesIO()
    Image.fromarray(noise(40, 48, 3)).save(file, format, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def claiming(descr="'|u1'", order="False", shape="(3, 8, 8)", held=192, version=1):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + bytes(held)


# arrays

LIES = {
    "more than there is": claiming(shape="(3, 300000, 300000)"),
    "more than an address": claiming(shape="(3, 30000000000000, 30000000000000)"),
    "digits": claiming(shape=f"(3, {'9' * 5000}, 1)"),
    "a negative side": claiming(shape="(3, -8, -8)"),
    "a side that is no number": claiming(shape="(3, 'x', 8)"),
    "objects": claiming("'|O'"),
    "nothing each": claiming("'|V0'", shape="(3, 300000, 300000)"),
    "arrays in arrays": claiming("'(100000,100000)u1'", shape="(3, 8, 8)"),
    "fields": claiming("[('a', 'u1'), ('b', 'O')]"),
    "text": claiming("'<U1000000000'"),
    "brackets": claiming(shape="(" * 5000),
    "many brackets": claiming(shape="[" * 150 + "]" * 150),
    "a long header": claiming(shape="(3, 8, 8)" + " " * 20_000),
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "an unknown version": b"\x93NUMPY\x09\x00\x10\x00{}",
    "no more than a beginning": b"\x93NUMPY",
}


@pytest.mark.parametrize("content", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("place", ["bytes", "file"])
def test_an_array_is_compared_with_the_bytes_there(tmp_path, content, place):
    value = {"bytes": content, "path": None}
    if place == "file":
        (tmp_path / "x.npy").write_bytes(content)
        value = {"bytes": None, "path": str(tmp_path / "x.npy")}
    for function in (decode_image, image_size, stored_values):
        with pytest.raises(BrokenImage):
            function(value, 3)


@pytest.mark.parametrize("array", [noise(3, 8, 9), noise(8, 9, 3, dtype=">u2"), noise(8, 9) > 99])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_that_are_whole_are_read_from_bytes_and_files_alike(tmp_path, array, order):
    content = npy(np.asarray(array, order=order)) + b"more"
    (tmp_path / "x.png").write_bytes(content)  # whatever it is called
    channels = 1 if array.ndim == 2 else 3
    found = decode_image(content, channels)
    assert np.array_equal(found, decode_image(array, channels))
    assert np.array_equal(found, decode_image(str(tmp_path / "x.png"), channels))
    assert np.array_equal(found, decode_image(bytearray(content), channels))


# files that are no files


@pytest.fixture
def special(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    os.mkfifo(tmp_path / "fifo.npy")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    made = ["fifo.png", "fifo.npy", "link.png", "folder.png"]
    return ["/dev/zero", "/dev/tty", "/dev/stdin", *(str(tmp_path / name) for name in made)]


def test_only_regular_files_are_opened(special):
    for path in special:
        addresses = [f"{kind}://{path}" for kind in ("file", "local", "zip+file")]
        for cell in (path, *addresses, f"zip://a.png::{path}", f"zip://a.png::local://{path}"):
            with pytest.raises(BrokenImage):
                decode_image({"bytes": None, "path": cell}, 3)
            with pytest.raises(BrokenImage):
                image_size(cell, 3)


def parquet(folder, cells):
    """A data set as a stranger may make it."""
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(cells, kind)})
    pyarrow.parquet.write_table(table, folder / "images.parquet")
    return folder / "images.parquet"


def test_rows_that_name_them_are_broken_rows(tmp_path, special):
    from effssl.data._loader import DecodedImages

    whole = {"bytes": encoded("PNG"), "path": "a.png"}
    bad = [{"bytes": None, "path": path} for path in [*special, "a\0b.png", "", "\x1b[31m.png"]]
    source = load_source(str(parquet(tmp_path, [whole, *bad, whole])))
    assert len(source.digest()) == 32
    images = DecodedImages(source, 32).__getitems__(list(range(len(bad) + 2)))
    assert [isinstance(image, BrokenImage) for image in images] == [
        False,
        *[True] * len(bad),
        False,
    ]
    assert "is not a regular file" in str(images[1])
    assert all(str(image).isprintable() for image in images[1:-1])


# bombs

BOMBS = """
import resource, sys, time
from effssl.data import BrokenImage, decode_image
from effssl.data._decode import image_size
content = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.process_time()
for function in (image_size, decode_image):
    try:
        print(getattr(function(content, 3, None), "shape", None))
    except BrokenImage as error:
        print("broken", error)
after = resource.getrusage(resource.RUSAGE_SELF)
print((after.ru_maxrss - before) // 1000, time.process_time() - started)
"""


def measured(tmp_path, content):
    """Return what came of an image, and the megabytes that it took."""
    (tmp_path / "x").write_bytes(content)
    command = [sys.executable, "-c", BOMBS, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    *said, cost = done.stdout.splitlines() or [done.stderr]
    assert done.returncode == 0, done.stderr
    return said[-1], int(cost.split()[0])


def chunk(kind, content):
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def png(width, height, *chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def scans(count):
    whole = encoded("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * count + b"\xff\xd9"


def animation(format, frames):
    first, *others = (Image.fromarray(noise(8, 8) // 2 + i % 100) for i in range(frames))
    file = io.BytesIO()
    first.save(file, format, save_all=True, append_images=others, duration=1)
    return file.getvalue()


def gif(frames):
    one = animation("GIF", 2)
    start = one.rindex(b"\x21\xf9")
    return one[:-1] + one[start:-1] * (frames - 2) + b";"


def test_a_text_chunk_that_unpacks_to_much_is_not_unpacked(tmp_path):
    text = zlib.compress(bytes(2**29))
    bomb = png(40, 40, chunk(b"zTXt", b"a\0\0" + text), chunk(b"IDAT", zlib.compress(bytes(4840))))
    said, megabytes = measured(tmp_path, bomb)
    assert said.startswith("broken") and megabytes < 100
    many = [chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**6)))] * 500
    said, megabytes = measured(tmp_path, png(40, 40, *many))
    assert said.startswith("broken") and megabytes < 200


def test_a_picture_that_claims_much_and_holds_little_takes_no_more_than_it_may(tmp_path):
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    said, megabytes = measured(tmp_path, png(13_000, 13_000, rows))
    assert said.startswith("broken") and megabytes < 1000  # 4 bytes a pixel
    said, megabytes = measured(tmp_path, png(60_000, 60_000, rows))
    assert said.startswith("broken") and megabytes < 50


def test_a_jpeg_of_thousands_of_scans_is_broken_and_one_of_many_is_not(tmp_path):
    with pytest.raises(BrokenImage, match=f"a JPEG file of more than {MOST_SCANS} scans"):
        decode_image(scans(3000), 3)
    with pytest.raises(BrokenImage, match=f"a JPEG file of more than {MOST_SCANS} scans"):
        stored_values(scans(3000), 3)
    expected = decode_image(scans(0), 3)
    assert decode_image(scans(20), 3).shape == expected.shape
    # marks of scans in other places, such as thumbnails, do not count
    exif = b"Exif\0\0" + b"\xff\xda\0\x02" * 500
    assert decode_image(encoded("JPEG", exif=exif), 3).shape == (3, 40, 48)
    assert decode_image(scans(0) + b"\xff\xda" * 500, 3).shape == (3, 40, 48)


@pytest.mark.parametrize("format, frames", [("GIF", 1_000_000), ("WEBP", 500), ("PNG", 500)])
def test_of_an_animation_the_first_picture_is_read(tmp_path, format, frames):
    content = gif(frames) if format == "GIF" else animation(format, frames)
    said, megabytes = measured(tmp_path, content)
    assert said == "(3, 8, 8)" and megabytes < 200


def test_a_file_that_another_program_would_decode_is_not_given_to_it(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n%%EOF\n"
    for function in (decode_image, image_size, stored_values):
        with pytest.raises(BrokenImage, match="the format EPS, which other programs decode"):
            function(page, 3)


def test_a_tiff_that_claims_gigabytes_and_holds_little_is_broken():
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((13, 16, 16)), planarconfig="separate", compression="zlib")
    content = bytearray(file.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as tiff:
        tags = tiff.pages[0].tags
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tags[name]
            content[tag.valueoffset : tag.valueoffset + tag.valuebytecount] = (12_000).to_bytes(
                tag.valuebytecount, "little"
            )
    with pytest.raises(BrokenImage, match="claims 14,976,000,000 bytes of pixels and holds"):
        decode_image(bytes(content), 13)


# changes at random

FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 50},
    "progressive": {"progressive": True},
    "GIF": {},
    "BMP": {},
    "WEBP": {},
    "AVIF": {},
    "TIFF": {},
    "deflated": {"compression": "tiff_adobe_deflate"},
    "PPM": {},
    "TGA": {},
    "ICO": {"sizes": [(16, 16)]},
    "JPEG2000": {},
    "PCX": {},
    "SGI": {},
    "DDS": {},
}
OTHER = {"progressive": "JPEG", "deflated": "TIFF"}


def seeds():
    found = {"npy": npy(noise(3, 8, 9)), "npy of floats": npy(noise(8, 9, 3) / np.float32(255))}
    for name, options in FORMATS.items():
        try:
            found[name] = encoded(OTHER.get(name, name), **options)
        except (KeyError, OSError, ValueError):  # not in this build of Pillow
            continue
    return found


SEEDS = seeds()
edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from(["set", "insert", "delete", "repeat"]),
        st.one_of(
            st.binary(min_size=1, max_size=8),
            st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xff\xff"]),
        ),
    ),
    min_size=1,
    max_size=6,
)
cases = st.tuples(st.sampled_from(sorted(SEEDS)), st.booleans(), edits, st.sampled_from([1, 3, 4]))


def mutated(name, early, changes):
    content = bytearray(SEEDS[name])
    for share, kind, what in changes:
        at = int(share * (min(len(content), 200) if early else len(content)))
        if kind == "set":
            content[at : at + len(what)] = what
        elif kind == "insert":
            content[at:at] = what
        elif kind == "delete":
            del content[at : at + len(what)]
        else:
            content[at:at] = content[at : at + 100] * 3
    return bytes(content)


def check(case):
    name, early, changes, channels = case
    content = mutated(name, early, changes)
    for value in (content, {"bytes": content, "path": "x"}):
        try:
            pixels = decode_image(value, channels, 32, max_pixels=10**6)
            assert pixels.dtype == np.uint8 and pixels.shape[0] == channels and pixels.ndim == 3
        except BrokenImage as error:
            assert str(error) and str(error).isprintable()
    for function in (image_size, stored_values):
        try:
            function(content, channels, max_pixels=10**6)
        except BrokenImage as error:
            assert str(error).isprintable()


QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def fuzz(examples):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=QUIET)
    @given(cases)
    def run(case):
        check(case)

    run()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    assert grown < 500, f"{grown} MB"


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they find
def test_images_changed_at_random_give_pixels_or_are_broken():
    fuzz(150)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_thousands_of_images_changed_at_random_give_pixels_or_are_broken():
    fuzz(2000)


@pytest.mark.parametrize("part", [b"\x01a", b"\x00!\xfe"], ids=["blocks", "comments"])
@pytest.mark.parametrize("before", [b"", b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0", b"!\xf9\0\1a\0x"])
def test_a_gif_with_absurd_comments_is_broken(part, before):
    whole = encoded("GIF")
    head, rest = whole[: 13 + (3 << (whole[10] & 7) + 1)], whole[13 + (3 << (whole[10] & 7) + 1) :]
    for count, is_broken in ((500, False), (5000, True)):
        content = head + before + b"!\xfe" + part * count + b"\0" + rest
        if is_broken:
            with pytest.raises(BrokenImage, match="GIF file of more than 1,000 blocks"):
                decode_image(content, 3)
            with pytest.raises(BrokenImage, match="GIF file of more than 1,000 blocks"):
                image_size(content, 3)
        else:
            assert (decode_image(content, 3) == decode_image(whole, 3)).all()
