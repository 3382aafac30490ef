import pytest
from fakes.debs import RELEASE, describe

from packager.debian import python_facts
from packager.debian.entries import directory, plain_file
from packager.errors import ImageError

BOOKWORM = [
    describe("python3", b"", "3.11.2-1+b1"),
    describe("python3.11", b"", "3.11.2-6+deb12u9"),
    describe("libc6", b"", "2.36-9+deb12u14"),
]


def test_facts_of_bookworm():
    facts = python_facts(BOOKWORM, RELEASE)
    assert facts.interpreter == "/usr/bin/python3.11"
    assert facts.python == "3.11.2"
    assert facts.python_minor == "3.11"
    assert facts.site == "/usr/local/lib/python3.11/dist-packages"
    assert facts.scripts == "/usr/local/bin"
    assert facts.glibc == "2.36"
    assert facts.architecture == "amd64"
    assert facts.installed == {}


def test_epochs_and_suffixes_are_no_part_of_a_version():
    packages = [describe("python3", b"", "1:3.13.5-1"), describe("python3.13", b"", "3.13.5~rc1+dfsg-2")]
    assert python_facts([*packages, BOOKWORM[2]], RELEASE).python == "3.13.5"


def test_installed_distributions_are_read_from_entries():
    base = "usr/lib/python3/dist-packages"
    entries = [
        directory(f"{base}/PyYAML-6.0.egg-info"),
        plain_file(f"{base}/six-1.16.0.egg-info", b""),
        directory(f"{base}/typing_extensions-4.4.0.dist-info"),
        plain_file(f"{base}/typing_extensions-4.4.0.dist-info/METADATA", b""),
        plain_file(f"{base}/old-1.0-py3.11.egg-info", b""),
        directory("opt/other-1.0.dist-info"),
    ]
    installed = python_facts(BOOKWORM, RELEASE, entries).installed
    assert installed == {"old": "1.0", "pyyaml": "6.0", "six": "1.16.0", "typing-extensions": "4.4.0"}


def test_no_python_is_refused():
    with pytest.raises(ImageError, match="hold no python3") as caught:
        python_facts([BOOKWORM[2]], RELEASE)
    assert caught.value.problems[0].where == "debian bookworm"
