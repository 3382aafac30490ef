"""Mirrors of weights: which address is read in place of another. What is accepted from there is the lock's to say."""

import pytest

from packager.errors import LoadError
from packager.weights.mirrors import mirrored, open_locked, parse_mirrors
from packager.weights.source import SourceFile

TABLE = parse_mirrors(
    "hf://mistralai=file:///mnt/mirror/mistralai, hf://mistralai/Mistral-7B=s3://fast/m7b/,"
    "https://models.example.com=s3://mirror/models, hf://team=hf://company, s3://=https://cache.example.com/s3,"
    "hf://web=https://cache.example.com/hf,https://old.example.com=https://new.example.com/v2,"
    "file:///models/old=file:///models/new"
)


@pytest.mark.parametrize(
    ("source", "read"),
    [
        ("hf://mistralai/Other", ("file:///mnt/mirror/mistralai/Other", "")),
        ("hf://mistralai/Mistral-7B", ("s3://fast/m7b", "")),
        ("hf://mistralai/Mistral-7B-v2", ("file:///mnt/mirror/mistralai/Mistral-7B-v2", "")),
        ("https://models.example.com/a/b.gguf", ("s3://mirror/models/a/b.gguf", "")),
        ("hf://team/model", ("hf://company/model", "c0ffee")),
        ("s3://bucket/key", ("https://cache.example.com/s3/bucket/key", "")),
        ("hf://web/model", ("https://cache.example.com/hf/model/", "")),
        ("https://old.example.com/model/", ("https://new.example.com/v2/model/", "c0ffee")),
        ("https://old.example.com/a.gguf?x=y", ("https://new.example.com/v2/a.gguf?x=y", "c0ffee")),
        ("file:///models/old/a.gguf", ("file:///models/new/a.gguf", "c0ffee")),
        # Nothing of the table fits.
        ("hf://mistral/Other", ("hf://mistral/Other", "c0ffee")),
        ("hf://mistralaix/Other", ("hf://mistralaix/Other", "c0ffee")),
        ("https://models.example.com.evil.example/a", ("https://models.example.com.evil.example/a", "c0ffee")),
        ("file://models/old/a.gguf", ("file://models/old/a.gguf", "c0ffee")),
    ],
)
def test_the_longest_prefix_of_whole_parts_is_replaced(source, read):
    assert mirrored(source, "c0ffee", TABLE) == read


@pytest.mark.parametrize("text", ["", " ", ",", " , "])
def test_no_mirrors(text):
    assert parse_mirrors(text) == {}
    assert mirrored("hf://a/b", "main", {}) == ("hf://a/b", "main")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hf://a", "not one ="),
        ("hf://a=s3://b=c", "not one ="),
        ("mistralai=file:///mnt", "an address starts with"),
        ("hff://a=file:///mnt", "an address starts with"),
        ("hf://a=/mnt/mirror", "an address starts with"),
        ("hf://a=ftp://b", "an address starts with"),
        ("hf://a=file://mnt/mirror", "three slashes"),
        ("hf://a=https://user:s3cret@b", "no user"),
        ("hf://a=https://b/?signature", "no query"),
        ("hf://a=file:///x,hf://a/=file:///y", "same prefix"),
    ],
)
def test_what_is_no_mirror_is_refused(text, why):
    with pytest.raises(LoadError, match=why) as caught:
        parse_mirrors(text)
    (problem,) = caught.value.problems
    assert problem.where == "PACKAGER_WEIGHTS_MIRRORS"
    assert "s3cret" not in f"{problem.what}{problem.mend}"
    assert problem.what.startswith(f"pair {text.count(',') + 1} is no mirror")


def test_a_locked_address_is_read_at_its_mirror(tmp_path, monkeypatch):
    (tmp_path / "copy/model").mkdir(parents=True)
    (tmp_path / "copy/model/a.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("PACKAGER_WEIGHTS_MIRRORS", f"hf://owner=file://{tmp_path}/copy")
    assert open_locked("hf://owner/model", "c0ffee").inventory() == (SourceFile("a.gguf", 4),)


def test_a_relative_path_starts_at_the_folder(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert open_locked("file://a.gguf", folder=tmp_path).inventory() == (SourceFile("a.gguf", 4),)


def test_mirrors_that_are_none_are_no_silent_detour(monkeypatch):
    monkeypatch.setenv("PACKAGER_WEIGHTS_MIRRORS", "/mnt/mirror")
    with pytest.raises(LoadError, match="is no mirror"):
        open_locked("file:///anywhere")
