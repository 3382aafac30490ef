import pytest

from packager.errors import ImageError
from packager.oci.reference import Reference, apply_mirrors, parse_mirrors, parse_reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("python", Reference("docker.io", "library/python")),
        ("python:3.12-slim", Reference("docker.io", "library/python", "3.12-slim")),
        ("team/app", Reference("docker.io", "team/app")),
        ("docker.io/python", Reference("docker.io", "library/python")),
        ("index.docker.io/team/app:1", Reference("docker.io", "team/app", "1")),
        ("localhost/app", Reference("localhost", "app")),
        ("localhost:5000/app:1", Reference("localhost:5000", "app", "1")),
        ("127.0.0.1:5000/a/b/c:v1", Reference("127.0.0.1:5000", "a/b/c", "v1")),
        ("[::1]:5000/app", Reference("[::1]:5000", "app")),
        ("Registry.Example.com/app", Reference("registry.example.com", "app")),
        (f"registry.example.com:5000/team/name:tag@{DIGEST}", Reference("registry.example.com:5000", "team/name", "tag", DIGEST)),
        (f"ghcr.io/a/b_c/d__e/f-g.h@{DIGEST}", Reference("ghcr.io", "a/b_c/d__e/f-g.h", "", DIGEST)),
        ("app:5000", Reference("docker.io", "library/app", "5000")),
    ],
)  # fmt: skip
def test_reads_references(text, want):
    assert parse_reference(text) == want
    assert parse_reference(str(want)) == want


@pytest.mark.parametrize(
    ("text", "what", "mend"),
    [
        ("", "cannot be part|names no repository", "REGISTRY/TEAM"),
        ("https://registry.example.com/app", "no https://", "write registry.example.com/app"),
        ("registry.example.com/", "names no repository", "REGISTRY/TEAM"),
        ("registry.example.com/Team/app:1", "'Team' cannot be part", "did you mean registry.example.com/team/app:1?"),
        ("registry.example.com/my app", "'my app' cannot be part", "did you mean registry.example.com/my-app?"),
        ("registry.example.com/a//b", "'' cannot be part", ""),
        ("registry.example.com/a:", "a tag is", ""),
        ("registry.example.com/a:-x", "a tag is", ""),
        ("registry.example.com/a:" + "x" * 129, "a tag is", ""),
        ("registry.example.com/a@sha256:abc", "a digest is", ""),
        ("registry.example.com/a@md5:" + "0" * 32, "a digest is", ""),
        ("a_b.example.com/app", "no registry host", ""),
        ("registry.example.com/" + "a" * 256, "at most 255", ""),
        ("a\n.com/b", "no registry host|cannot be part", ""),
    ],
)
def test_refuses_what_is_no_reference(text, what, mend):
    with pytest.raises(ImageError, match=what) as caught:
        parse_reference(text)
    problem = caught.value.problems[0]
    assert problem.where == text
    assert problem.mend
    assert mend in problem.mend


def test_changes_keep_the_repository():
    reference = parse_reference(f"registry.example.com/app:1@{DIGEST}")
    assert str(reference.with_tag("2")) == "registry.example.com/app:2"
    assert str(reference.with_digest(DIGEST)) == f"registry.example.com/app@{DIGEST}"
    assert (reference.selector, reference.with_tag("2").selector) == (DIGEST, "2")
    assert parse_reference("app").selector == "latest"
    with pytest.raises(ImageError, match="a tag is"):
        reference.with_tag("no tag")
    with pytest.raises(ImageError, match="a digest is"):
        reference.with_digest("latest")


def test_mirrors():
    mirrors = parse_mirrors(
        "docker.io=cache.example.com/hub, nvcr.io=cache.example.com:5000,index.docker.io=x.example.com"
    )
    assert mirrors == {"docker.io": "x.example.com", "nvcr.io": "cache.example.com:5000"}
    mirrors = parse_mirrors("docker.io=cache.example.com/hub/,nvcr.io=cache.example.com:5000")
    assert str(apply_mirrors(parse_reference("python:3"), mirrors)) == "cache.example.com/hub/library/python:3"
    assert (
        str(apply_mirrors(parse_reference(f"nvcr.io/a/b@{DIGEST}"), mirrors)) == f"cache.example.com:5000/a/b@{DIGEST}"
    )
    assert str(apply_mirrors(parse_reference("ghcr.io/a/b"), mirrors)) == "ghcr.io/a/b"
    assert parse_mirrors("") == {}


@pytest.mark.parametrize("text", ["docker.io", "=x", "docker.io=", "docker.io=https://x"])
def test_refuses_what_is_no_mirror(text):
    with pytest.raises(ImageError, match="HOST=MIRROR"):
        parse_mirrors(text)
