"""Base images from a registry are pulled once; then the store has them."""

from dataclasses import replace

import pytest
from fakes.bases import make_base
from fakes.registry import FakeRegistry

from packager.command import run_command
from packager.errors import FetchError, IntegrityError
from packager.lock.stored import pull_base
from packager.lock.tools import Tools
from packager.oci.reference import Reference
from packager.store import Store


@pytest.fixture
def registry():
    with FakeRegistry() as fake:
        yield fake


@pytest.fixture
def tools(tmp_path):
    return Tools(store=Store(tmp_path), run=run_command)


@pytest.fixture
def image():
    return make_base()


@pytest.fixture
def reference(registry, image):
    for layer in image.layers:
        registry.put_blob("team/base", b"".join(layer.blob.open()))
    registry.put_blob("team/base", image.config)
    registry.put_manifest("team/base", "1", image.manifest, image.media_type)
    return Reference(registry.host, "team/base", "1")


def content(image):
    return [b"".join(layer.blob.open()) for layer in image.layers]


def test_the_image_is_what_the_registry_has(reference, image, tools):
    found = pull_base(reference, tools, architecture="amd64")
    assert (found.manifest, found.config) == (image.manifest, image.config)
    assert content(found) == content(image)
    assert [layer.title for layer in found.layers] == [layer.title for layer in image.layers]


def test_a_digest_is_asked_for_once(reference, image, registry, tools):
    pinned = reference.with_digest(image.manifest_digest)
    first = pull_base(pinned, tools, architecture="amd64")
    assert content(first) == content(image)
    asked = len(registry.requests)
    again = pull_base(pinned, replace(tools, offline=True), architecture="amd64")
    assert (again.manifest, again.config) == (image.manifest, image.config)
    assert len(registry.requests) == asked


def test_layers_are_not_kept(reference, image, tools):
    """A vendor's base has gigabytes: who reads it streams it."""
    content(pull_base(reference, tools, architecture="amd64"))
    assert not any(tools.store.find(layer.digest.removeprefix("sha256:")) for layer in image.layers)


def test_a_tag_is_asked_for_each_time(reference, tools, registry):
    for _ in range(2):
        pull_base(reference, tools, architecture="amd64")
    assert len(registry.seen("GET .*/manifests/1")) == 2
    with pytest.raises(FetchError, match="offline"):
        pull_base(reference, replace(tools, offline=True), architecture="amd64")


def test_offline_names_what_the_store_lacks(reference, image, tools):
    pinned = reference.with_digest(image.manifest_digest)
    offline = replace(tools, offline=True)
    with pytest.raises(FetchError, match="lacks this base image") as caught:
        pull_base(pinned, offline, architecture="amd64")
    assert caught.value.problems[0].where == str(pinned)
    pull_base(pinned, tools, architecture="amd64")
    found = pull_base(pinned, offline, architecture="amd64")
    with pytest.raises(FetchError, match=r"a layer of this base image .* lies in its registry"):
        found.layers[0].blob.open()


def test_other_bytes_of_a_layer_never_reach_the_store(reference, image, registry, tools):
    digest = image.layers[0].digest
    registry.blobs["team/base"][digest] = b"x" * image.layers[0].size
    found = pull_base(reference, tools, architecture="amd64")
    with pytest.raises(IntegrityError):
        b"".join(found.layers[0].blob.open())
    assert tools.store.find(digest.removeprefix("sha256:")) is None
