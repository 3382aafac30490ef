"""A file that is written to while it is fetched is told from one that several machines serve, each with its own dates."""

import os
import random
import time
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import pytest
from fakes.sources import locked
from fakes.web import Request, Web

from packager.errors import LoadError
from packager.store import Store
from packager.weights.chunks import PIECE
from packager.weights.fetch import FetchSettings, Wanted, fetch_files
from packager.weights.http import HttpReader, Place
from packager.weights.https import HttpsSource

DATA = random.Random(4).randbytes(100_000)
CHANGED = "the file changed at its source while it was fetched"


@pytest.fixture
def web():
    with Web({"a.bin": DATA}) as web:
        yield web


@pytest.fixture
def reader(web):
    with closing(HttpReader(lambda path: Place(f"{web.url}/{path}"))) as reader:
        yield reader


def part(reader, start):
    return b"".join(reader.read("a.bin", start, start + 100, len(DATA)))


def modified(web, seconds, tag='"one"'):
    """From now on the file was modified so many seconds from now, by the place's clock."""
    web.headers["a.bin"] = {"Last-Modified": formatdate(time.time() + seconds, usegmt=True), "ETag": tag}


def test_a_file_that_is_written_to_after_the_first_answer(web, reader):
    modified(web, -60)
    part(reader, 0)
    part(reader, 100)
    modified(web, 60, tag='"two"')
    with pytest.raises(LoadError) as caught:
        part(reader, 200)
    (problem,) = caught.value.problems
    assert (problem.what, problem.where) == (CHANGED, f"{web.url}/a.bin")
    assert "restore the file, or lock and build again" in problem.mend


@pytest.mark.parametrize("seconds", [-3600, -30])
def test_another_date_before_the_first_answer_is_another_machine(web, reader, seconds):
    modified(web, -60)
    part(reader, 0)
    modified(web, seconds, tag='"two"')
    assert part(reader, 200) == DATA[200:300]


def test_the_same_strong_etag_is_the_same_file_whatever_its_date(web, reader):
    modified(web, -60)
    part(reader, 0)
    modified(web, 60)
    assert part(reader, 200) == DATA[200:300]
    modified(web, 120, tag='W/"one"')
    with pytest.raises(LoadError, match=CHANGED):
        part(reader, 300)


def test_places_that_date_the_file_like_their_answer(web, reader):
    modified(web, 30, tag="")
    part(reader, 0)
    modified(web, 90, tag="")
    assert part(reader, 200) == DATA[200:300]


def test_places_that_tell_no_date_or_none_that_is_one(web, reader):
    part(reader, 0)
    web.headers["a.bin"] = {"Last-Modified": "the other day"}
    assert part(reader, 200) == DATA[200:300]


def test_who_reads_from_the_beginning_takes_what_there_is_now(web, reader):
    modified(web, -60)
    part(reader, 100)
    modified(web, 60)
    assert part(reader, 0) == DATA[:100]
    assert part(reader, 100) == DATA[100:200]


@pytest.mark.parametrize(
    ("given", "tag"), [('"abc"', '"abc"'), ('W/"abc"', ""), ("", "")], ids=["strong", "weak", "none"]
)
def test_what_tells_the_bytes_is_a_strong_etag(web, reader, given, tag):
    assert reader.tag("a.bin") == ""
    web.headers["a.bin"] = {"ETag": given}
    part(reader, 0)
    assert reader.tag("a.bin") == tag


def test_a_fetch_ends_at_once_instead_of_twice_to_the_end(tmp_path: Path) -> None:
    path, size = tmp_path / "a.bin", 64 * PIECE
    path.write_bytes(random.Random(1).randbytes(size))
    with Web({"a.bin": path}) as web:
        modified(web, -60)

        def change(request: Request) -> None:
            if request.number == 2:
                path.write_bytes(os.urandom(size))
                modified(web, 60, tag='"two"')

        web.faults = change
        file = locked("a.bin", path.read_bytes())
        settings = FetchSettings(first=1, connections=1)
        with pytest.raises(LoadError, match=CHANGED):
            fetch_files([Wanted(file, HttpsSource(f"{web.url}/a.bin"))], Store(tmp_path / "store"), settings=settings)
        assert web.sent < size
