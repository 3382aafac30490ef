"""Addresses and revisions of weights in a spec: what is taken, what is refused in which words."""

import pytest
from pydantic_core import PydanticCustomError

from packager.errors import LoadError, SpecError
from packager.spec.address import FORMS, SIGNING, check_address
from packager.spec.load import load_spec
from packager.weights.schemes import SCHEMES, open_source

GOOD = [
    "file://model.gguf",
    "file:///models/my model@1",
    "file://../a%20b",
    "hf://mistralai/Mistral-7B-Instruct-v0.3",
    "hf://a/b_c.d",
    "hf://OWNER/NAME/onnx/q4 files@2",
    "https://models.example.com/team/model.gguf",
    "https://models.example.com:8443/team/model/",
    "https://models.example.com/get/model.gguf?download=true",
    "https://[::1]/model.gguf",
    "http://127.0.0.1:8000/model.gguf",
    "http://localhost/models/",
    "s3://bucket-1/team/model",
    "s3://bucket/",
    "s3://bucket",
]
BAD = [
    ("model.gguf", "must name its scheme, not just 'model.gguf'", "write file://model.gguf"),
    ("a/b", "must name its scheme", "write hf://a/b for the hub's, or file://a/b for a folder"),
    ("what is it?", "must name its scheme", "write file://PATH"),
    ("oci://ghcr.io/a/b", "cannot be oci:// yet", "write file://PATH"),
    ("ftp://a/b", "has an unknown scheme 'ftp'", "write file://PATH"),
    ("HF://a/b", "has an unknown scheme 'HF'", "write file://PATH"),
    ("file://", "names no path", "write file://PATH"),
    # The hub.
    ("hf://model", "must name a repository of the hub, not 'model'", "write hf://OWNER/NAME"),
    ("hf://a//b", "must name a repository of the hub", "write hf://OWNER/NAME"),
    ("hf://a/b--c", "must name a repository of the hub", "write hf://OWNER/NAME"),
    ("hf://a/.b", "must name a repository of the hub", "write hf://OWNER/NAME"),
    ("hf://a/b.git", "must name a repository of the hub", "write hf://OWNER/NAME"),
    ("hf://" + "a" * 97 + "/b", "must name a repository of the hub", "write hf://OWNER/NAME"),
    ("hf://a/b/", "has a part that is empty", "write the path that is meant"),
    ("hf://a/b/../c", "has a part that is empty, `.` or `..`", "write the path that is meant"),
    ("hf://datasets/a/b", "not one of the hub's datasets", "write hf://OWNER/NAME"),
    ("hf://a/b@v1.0", "must not name a revision", "write hf://a/b, and `revision: v1.0` beside it"),
    ("hf://hf_token@a/b", "must not hold a user or a password", "credentials come from the environment"),
    ("https://huggingface.co/a/b", "is a page of the Hugging Face hub", "write hf://a/b;"),
    ("https://huggingface.co/a/b/resolve/main/c.gguf", "is a page of the Hugging Face hub", "write hf://a/b;"),
    ("http://hf.co/a/b/tree/main", "is a page of the Hugging Face hub", "write hf://a/b;"),
    # The web.
    ("https://", "names no host", "write https://HOST/PATH"),
    ("https:///a", "names no host", "write https://HOST/PATH"),
    ("http://models.example.com/a", "must be https://, not http://", "write https://HOST/PATH"),
    ("http://127.0.0.1.example.com/a", "must be https://, not http://", "write https://HOST/PATH"),
    ("https://models.example.com", "names no file and no folder", "write https://HOST/PATH"),
    ("https://models.example.com//", "names no file and no folder", "write https://HOST/PATH"),
    ("https://models.example.com/a//", "has a part that is empty", "write the path that is meant"),
    ("https://a:b/c", "is no address of the web", "write https://HOST/PATH"),
    ("https://a:99999/c", "is no address of the web", "write https://HOST/PATH"),
    ("https://[::1/c", "is no address of the web", "write https://HOST/PATH"),
    ("https://a/b/../c", "has a part that is empty, `.` or `..`", "write the path that is meant"),
    ("https://a/b?X-Amz-Signature=s3cret", "is signed: it is a secret, and it expires", "write the stable address"),
    ("https://a/b?id=1&token", "is signed: it is a secret, and it expires", "write the stable address"),
    ("https://a/b#c", "must not have a fragment", "remove it"),
    ("https://me:s3cret@a/b", "must not hold a user or a password", "credentials come from the environment"),
    # The object store.
    ("s3://", "has no bucket's name: ''", "write s3://BUCKET/PREFIX"),
    ("s3://Bucket/a", "has no bucket's name: 'Bucket'", "write s3://BUCKET/PREFIX"),
    ("s3://b/a", "has no bucket's name: 'b'", "write s3://BUCKET/PREFIX"),
    ("s3://bucket/a//b", "has a part that is empty", "write the path that is meant"),
    ("s3://key:s3cret@bucket/a", "must not hold a user or a password", "credentials come from the environment"),
]


@pytest.mark.parametrize("address", GOOD)
def test_what_is_taken_opens(address):
    """Keep in step: what the spec takes, the source's class takes."""
    check_address(address)
    scheme = address.partition("://")[0]
    assert open_source(address).uri.startswith(f"{scheme}://")


@pytest.mark.parametrize(("address", "what", "mend"), BAD)
def test_what_is_refused(address, what, mend):
    with pytest.raises(PydanticCustomError) as caught:
        check_address(address)
    context = caught.value.context
    assert context is not None
    assert what in context["what"]
    assert mend in context["mend"]
    assert "s3cret" not in str(context)


def test_every_scheme_is_in_the_words():
    assert {*FORMS, "http"} == {*SCHEMES, "http"}


@pytest.mark.parametrize("name", sorted(SIGNING))
def test_what_signs_an_address_is_known_on_both_sides(name):
    with pytest.raises(LoadError, match="is signed"):
        open_source(f"https://models.example.com/a?{name.upper()}=x")


HUB = "name: x\nengine: {kind: vllm}\nweights:\n  source: hf://a/b\n"


def load(folder, text):
    (folder / "packager.yaml").write_text(text)
    return load_spec(folder).spec.weights


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "a" * 40, "feature/x_y+z", '"0123456"'])
def test_a_revision(tmp_path, revision):
    weights = load(
        tmp_path, f"{HUB}  revision: {revision}\n  adapters: [{{name: t, source: hf://c/d, revision: {revision}}}]\n"
    )
    assert weights.revision == weights.adapters[0].revision == revision.strip('"')
    assert load(tmp_path, HUB).revision is None


@pytest.mark.parametrize("revision", ["/main", "a..b", "-x", "a b", "a//b", "a/", "x~1", "x@y", '""', "a.", "x" * 256])
def test_what_is_no_revision(tmp_path, revision):
    with pytest.raises(SpecError, match=r"`weights\.revision` must be"):
        load(tmp_path, f"{HUB}  revision: {revision}\n")


@pytest.mark.parametrize("source", ["file:///models/a", "https://a.example/b", "s3://bucket/a"])
def test_a_revision_of_what_has_none(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    line = f"  adapters: [{{name: t, source: '{source}', revision: main}}]\n"
    text = f"{HUB}{line}  revision: v1\n".replace("hf://a/b", source)
    with pytest.raises(SpecError) as caught:
        load(tmp_path, text)
    scheme = source.partition("://")[0]
    assert [(one.where, one.what) for one in caught.value.problems] == [
        (
            f"packager.yaml:5:{line.index('main') + 1}",
            f"`weights.adapters[0].revision` is for hf:// alone: {scheme}:// has no revisions",
        ),
        ("packager.yaml:6:13", f"`weights.revision` is for hf:// alone: {scheme}:// has no revisions"),
    ]
    assert all(one.mend.startswith("remove it") for one in caught.value.problems)


@pytest.mark.parametrize("source", ["hf://a/b", "https://a.example/b", "s3://bucket/a", "file:///mnt/a"])
def test_on_load_from_where_the_container_can_read(tmp_path, source):
    assert load(tmp_path, f"{HUB}  ship: on_load\n".replace("hf://a/b", source)).ship == "on_load"
