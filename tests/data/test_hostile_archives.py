"""Archives of strangers: nothing leaves them, and nothing in them takes more than an image may."""

import io
import logging
import os
import tarfile
import zipfile
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from effssl.data import BrokenImage, _archives, _paths, load_source
from effssl.data._loader import decode_or_broken


def png(value=7):
    file = io.BytesIO()
    Image.new("L", (8, 8), value).save(file, "PNG")
    return file.getvalue()


def outcomes(path):
    source = load_source(str(path), in_chans=1)
    cells = source.dataset[:]["image"]
    decoded = [decode_or_broken(cell, "row", source, 32) for cell in cells]
    found = [str(x) if isinstance(x, BrokenImage) else int(x[0, 0, 0]) for x in decoded]
    return dict(zip((path.rpartition(".zip/")[2] for path in source.paths()), found, strict=True))


def zipped(tmp_path, **more):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", **more) as archive:
        archive.writestr("a.png", png())
    return tmp_path / "x.zip"


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "HF_HOME", str(tmp_path / "home"))
    _paths._archive.cache_clear()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_unpacks_to_more_than_it_claims_is_broken(tmp_path, method):
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("bomb.png", bytes(10**8))
        claimed = archive.getinfo("bomb.png")
    content = path.read_bytes()
    size, lie = (10**8).to_bytes(4, "little"), (claimed.compress_size * 900).to_bytes(4, "little")
    path.write_bytes(content.replace(size, lie))
    found = outcomes(path)
    assert found["a.png"] == 7 and "x.zip/bomb.png (row): " in found["bomb.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_file_that_claims_a_thousandfold_is_broken(tmp_path, method):
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("bomb.png", bytes(10**8))
    assert "claims 100,000,000 bytes of " in outcomes(path)["bomb.png"]


def test_a_file_of_more_than_an_image_may_have_is_broken(tmp_path, monkeypatch):
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("large.png", bytes(5000))
    monkeypatch.setattr(_paths, "MOST_BYTES", 4000)
    assert outcomes(path)["a.png"] == 7 and "claims 5,000 bytes" in outcomes(path)["large.png"]


def test_an_encrypted_file_is_broken(tmp_path):
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.png", png())
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.rindex(mark) + offset] |= 1
    path.write_bytes(content)
    found = outcomes(path)
    assert found["a.png"] == 7 and "encrypted" in found["b.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_of_any_kind_are_names(tmp_path):
    names = ["/etc/passwd.png", "../../up.png", "c:\\win.png", "x/../y.png", "\x1b[31m.png"]
    path = zipped(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in [*names, "a.png"]:
            archive.writestr(name, png(9))
    before = sorted(os.listdir(tmp_path))
    found = outcomes(path)
    assert set(found.values()) == {9} and found["a.png"] == 9
    assert all(name.isprintable() for name in found) and sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("tampered", [b"PK\1\2\x14\x03\xff\xff", b"PK\1\2\x14\x03\x14\0\xff\xff"])
def test_a_directory_that_cannot_be_parsed_is_one_line(tmp_path, tampered):
    path = zipped(tmp_path)
    content = path.read_bytes()
    at = content.index(b"PK\1\2")
    path.write_bytes(content[:at] + tampered + content[at + len(tampered) :])
    try:
        outcomes(path)
    except ValueError as error:
        assert "x.zip" in str(error) and len(str(error).splitlines()) == 1


def tar(tmp_path, *members):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return tmp_path / "x.tar.gz"


def test_a_copy_that_does_not_fit_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    path = tar(tmp_path, ("a.png", png()), ("b.png", bytes(5000)))
    usage = SimpleNamespace(free=5100)
    monkeypatch.setattr(_archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"copy of .*x.tar.gz does not fit in .*5,100 bytes are free"):
        load_source(str(path), in_chans=1)
    assert not list((tmp_path / "home" / "effssl" / "archives").glob("*[!k]"))
    usage.free = 10**9
    assert len(load_source(str(path), in_chans=1).dataset) == 2


def test_a_full_disk_is_named_too(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_archives.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="the copy of .*x.tar.gz does not fit in"):
        load_source(str(tar(tmp_path, ("a.png", png()))), in_chans=1)


def test_a_file_of_a_tar_that_is_too_large_is_left_and_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_archives, "MOST_BYTES", 4000)
    path = tar(tmp_path, ("a.png", png()), ("\x1b[31mb.png", bytes(5000)))
    with caplog.at_level(logging.WARNING, logger="effssl"):
        assert list(outcomes(path).values()) == [7]
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "b.png is left: it has 5,000 bytes" in said and said.isprintable()


def test_a_link_in_a_tar_is_as_large_as_what_it_leads_to(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_archives, "MOST_BYTES", 4000)
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        for name, content in (("a.png", png()), ("large.bin", bytes(5000))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target in (("b.png", "large.bin"), ("c.png", "/etc/passwd"), ("d.png", "a.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    assert list(outcomes(tmp_path / "x.tar.gz").values()) == [7, 7]
    assert "b.png is left: it has 5,000 bytes" in caplog.text
    assert "c.png is left: it is no regular file" in caplog.text


def test_a_planted_link_is_not_written_through(tmp_path):
    path = tar(tmp_path, ("a.png", png()))
    load_source(str(path), in_chans=1)
    (copy,) = (tmp_path / "home" / "effssl" / "archives").glob("*.zip")
    (tmp_path / "dear").write_text("mine")
    copy.unlink()
    for name in (copy.with_suffix(".partial"), copy.with_name(f".{copy.name}.partial")):
        name.symlink_to(tmp_path / "dear")
    load_source(str(path), in_chans=1)
    lock = copy.with_name(copy.name + ".lock")
    copy.unlink()
    lock.unlink(missing_ok=True)
    lock.symlink_to(tmp_path / "dear")
    try:
        load_source(str(path), in_chans=1)
    except OSError:
        pass
    assert (tmp_path / "dear").read_text() == "mine"


def members(tmp_path, *infos, form=tarfile.GNU_FORMAT):
    """A tar.gz of an image and of members with no content of their own."""
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", format=form) as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
        for info in infos:
            archive.addfile(info)
    return tmp_path / "x.tar.gz"


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_of_a_tar_that_is_too_large_is_refused_unread(tmp_path, kind):
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 2**40
    with pytest.raises(ValueError, match="x.tar.gz is damaged: it has a header of 1,099,511") as e:
        load_source(str(members(tmp_path, info)), in_chans=1)
    assert len(str(e.value).splitlines()) == 1


def test_a_file_of_a_negative_size_is_refused(tmp_path):
    info = tarfile.TarInfo("b.png")
    info.pax_headers = {"size": "-2048"}
    path = members(tmp_path, info, form=tarfile.PAX_FORMAT)
    with pytest.raises(ValueError, match="x.tar.gz is damaged: it has a file of -2,048 bytes"):
        load_source(str(path), in_chans=1)


def test_links_to_themselves_and_sparse_files_are_left_and_named(tmp_path, caplog):
    sparse = tarfile.TarInfo("s.png")
    sparse.type = tarfile.GNUTYPE_SPARSE
    circle = [link("b.png", "b.png"), link("c.png", "d.png"), link("d.png", "c.png")]
    assert outcomes(members(tmp_path, sparse, *circle)) and "a.png is left" not in caplog.text
    for name in "sbcd":
        assert f"{name}.png is left: it is no regular file" in caplog.text


def test_links_do_not_multiply_what_an_archive_holds(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(_archives, "_MOST_LINKED_RATIO", 0)
    monkeypatch.setattr(_archives, "_MOST_LINKED_MORE", 3 * len(png()))
    links = [link(f"{i}.png", "a.png", tarfile.LNKTYPE) for i in range(5)]
    assert len(outcomes(members(tmp_path, *links))) == 4
    assert "3.png is left: links lead to far more" in caplog.text


def test_a_tar_that_unpacks_to_far_more_than_it_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "_MOST_RATIO", 1)
    monkeypatch.setattr(_archives, "_MOST_MORE", 10_000)
    path = tar(tmp_path, *((f"{i}.png", bytes(5000)) for i in range(5)))
    with pytest.raises(ValueError, match="x.tar.gz of .* bytes unpacks to more than 10,"):
        load_source(str(path), in_chans=1)


def test_a_name_in_another_coding_is_read(tmp_path):
    info = tarfile.TarInfo("b\udcff.png")
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz", encoding="utf-8", errors="surrogateescape") as archive:
        info.size = len(png())
        archive.addfile(info, io.BytesIO(png()))
    assert len(load_source(str(path), in_chans=1).dataset) == 1


def test_metadata_of_a_stranger_is_one_line(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "metadata.csv").write_text("file_name,file_name,label\na.png,a.png,1\n")
    with pytest.raises(ValueError, match="several columns called 'file_name'"):
        load_source(str(tmp_path), in_chans=1)
    (tmp_path / "metadata.csv").unlink()
    rows = pyarrow.table({"file_name": ["a.png"] * 20_000})
    pyarrow.parquet.write_table(rows, tmp_path / "metadata.parquet")
    with pytest.raises(ValueError, match="has 20,000 rows; 10,010 are read at most"):
        load_source(str(tmp_path), in_chans=1)
