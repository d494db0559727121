"""Names of strangers reach a terminal as text, and not as what it would do."""

import io
import logging
import zipfile
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from effssl.cli import main
from effssl.data import load_source
from effssl.data._decode import image_name
from effssl.data._loader import DecodedImages
from effssl.data._paths import outside_cell, printable, shown
from effssl.evaluation._tables import class_table

EVIL = "\x1b]0;owned\x07\x1b[31m\r\n\u202egnp.exe\x9b2J"


def png(value=0):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    for kind in ("cat", EVIL):
        (tmp_path / kind).mkdir()
        for i in range(3):
            (tmp_path / kind / f"{i}{EVIL}.png").write_bytes(png(i))
        (tmp_path / kind / f"notes.{EVIL}").touch()
        (tmp_path / kind / f"3{EVIL}.png").write_bytes(b"no image")
        (tmp_path / kind / f"4{EVIL}.png").symlink_to("nowhere")
    return tmp_path


def test_nothing_that_is_logged_of_a_folder_is_more_than_text(folder, caplog):
    with caplog.at_level(logging.INFO, logger="effssl"):
        source = load_source(str(folder), in_chans=1)
        broken = DecodedImages(source, 8).__getitems__(list(range(len(source.dataset))))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and "left 2 ." in said[0] and "a link to nothing" in said[1]
    assert all(message.isprintable() for message in said)
    messages = [str(image) for image in broken if not isinstance(image, torch.Tensor)]
    assert len(messages) == 2 and all(message.isprintable() for message in messages)
    assert all(path.isprintable() for path in source.paths())


@pytest.mark.parametrize(
    "cell",
    [
        f"https://example.org/{EVIL}",
        f"zip://{EVIL}::/x.zip",
        outside_cell(f"/home/{EVIL}"),
        f"/home/{EVIL}",
        "zip+file:///x.zip#%1b%5b31m",
        "\ud800" + EVIL,
        "caf\udce9.png\x1b",
    ],
)
def test_cells_of_any_kind_are_shown_as_text(cell):
    for text in (shown(cell), image_name(cell, "row 3"), printable(cell)):
        assert text.isprintable()
    assert "[31m" in shown(cell) or "caf" in shown(cell)


def test_names_that_are_text_stay_as_they_are():
    for name in ("a b.png", "größe/日本.png", "x" * 5000, "👍🏽.png"):
        assert printable(name) == name
    assert printable("caf\udce9.png") == "caf\\xe9.png"
    assert printable("a\nb") == "a\\nb" and len(printable("\n" + "x" * 5000)) == 5002


def test_classes_are_text_in_tables():
    counts = torch.tensor([[1, 1], [0, 3]])
    shares = torch.tensor([50.0, 100.0])
    accuracy = SimpleNamespace(per_class=shares, confusion=counts, episodes=None)
    found = SimpleNamespace(accuracy={"pretrained": {"knn": [accuracy]}}, labels=[0, 1])
    table = class_table(found, SimpleNamespace(class_names=("cat", EVIL)))
    assert len(table.split("\n")) == 4
    assert all(line.isprintable() for line in table.split("\n")) and "owned" in table


def test_views_print_names_as_text(folder, tmp_path, capfd):
    main(
        ["views", "--dataset", str(folder), "--output", str(tmp_path / "views.png"), "--in-chans"]
        + ["1", "--preset", "grey", "--img-size", "32", "--views", "2"]
    )
    said = capfd.readouterr()
    assert said.out.count("owned") > 3 and "skipped a broken image" in said.err
    assert all(line.isprintable() for line in (said.out + said.err).split("\n"))


@pytest.mark.parametrize("name", [f"{EVIL}.png", f"{EVIL}/{EVIL}.png"])
def test_archives_and_errors_too(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"no image")
        archive.writestr("b.png", png())
    source = load_source(str(tmp_path / "x.zip"), in_chans=1)
    assert all(path.isprintable() for path in source.paths())
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "metadata.csv").write_text(f'file_name,"{EVIL}\n"1"2')
    (tmp_path / "y" / "b.png").write_bytes(png())
    with pytest.raises(ValueError) as caught:
        load_source(str(tmp_path / "y"))
    assert str(caught.value).isprintable()
