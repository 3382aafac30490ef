"""Sources: an address is a scheme and its own rest; `file://` is the first."""

import pytest

from packager.errors import LoadError
from packager.weights.schemes import SCHEMES, open_source
from packager.weights.source import SourceFile, read_file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model/sub").mkdir(parents=True)
    for name in ("b.gguf", "a.json", "sub/c.txt", ".hidden", "sub/.also"):
        (tmp_path / "model" / name).write_bytes(name.encode())
    return tmp_path


def test_a_folder(folder):
    source = open_source("file://model", folder=folder)
    assert source.inventory() == (SourceFile("a.json", 6), SourceFile("b.gguf", 6), SourceFile("sub/c.txt", 9))
    assert (source.uri, source.revision) == (f"file://{folder}/model", "")


def test_one_file(folder):
    source = open_source("file://model/b.gguf", folder=folder)
    assert source.inventory() == (SourceFile("b.gguf", 6),)
    assert read_file(source, SourceFile("b.gguf", 6)) == b"b.gguf"
    assert read_file(source, SourceFile("b.gguf", 6), stop=2) == b"b."


def test_an_absolute_path_needs_no_folder(folder):
    source = open_source(f"file://{folder}/model")
    assert b"".join(source.connect().read("sub/c.txt", 4, 9, 9)) == b"c.txt"
    assert b"".join(source.connect().read("sub/c.txt", 4, 7, 9)) == b"c.t"


def test_the_path_is_taken_as_it_stands(folder):
    (folder / "a%20b c").write_bytes(b"x")
    assert open_source("file://a%20b c", folder=folder).inventory() == (SourceFile("a%20b c", 1),)


@pytest.mark.parametrize("path", ["other", "model/b.gguf/more", "nu\0l"])
def test_nothing_there(folder, path):
    with pytest.raises(LoadError, match="no weights here") as caught:
        open_source(f"file://{path}", folder=folder).inventory()
    assert caught.value.problems[0].where == str(folder / path)


@pytest.mark.parametrize("target", ["b.gguf", "sub", "/etc/passwd", "nowhere"])
def test_links_are_refused(folder, target):
    (folder / "model/link").symlink_to(target)
    with pytest.raises(LoadError, match="a link stands among the weights"):
        open_source("file://model", folder=folder).inventory()


def test_links_that_are_out_of_sight_are_none_of_the_weights(folder):
    (folder / "model/.git").mkdir()
    (folder / "model/.git/link").symlink_to("nowhere")
    (folder / "model/.link").symlink_to("nowhere")
    assert len(open_source("file://model", folder=folder).inventory()) == 3


def test_a_place_that_cannot_be_looked_at(folder):
    with pytest.raises(LoadError, match="the weights cannot be listed: File name too long") as caught:
        open_source(f"file://{'x' * 300}", folder=folder).inventory()
    assert caught.value.problems[0].where == str(folder / ("x" * 300))


def test_a_file_that_goes_away(folder):
    source = open_source("file://model", folder=folder)
    (folder / "model/b.gguf").unlink()
    with pytest.raises(LoadError, match="cannot be read"):
        read_file(source, SourceFile("b.gguf", 6))


def test_a_file_that_changed_its_size(folder):
    source = open_source("file://model", folder=folder)
    with pytest.raises(LoadError, match="has 6 bytes, not 7"):
        read_file(source, SourceFile("b.gguf", 7))


@pytest.mark.parametrize("uri", ["oci://a/b", "model", "file:/x", "", "file://", "FILE://x", "://x"])
def test_other_addresses(uri):
    with pytest.raises(LoadError, match="no address this version reads") as caught:
        open_source(uri)
    assert all(f"{scheme}://" in caught.value.problems[0].mend for scheme in SCHEMES)
