import json
import threading
from collections.abc import Iterator

import pytest
from fakes.registry import FakeRegistry, Fault

from packager.errors import ImageError, IntegrityError, RegistryError
from packager.oci.blob import RecipeBlob
from packager.oci.credentials import Credential
from packager.oci.image import INDEX, MANIFEST, Image, ImageConfig, image_index, make_image, parse_image
from packager.oci.layer import LAYER_GZIP, Layer, make_layer
from packager.oci.reference import Reference
from packager.oci.registry import PushReport, Registry, RemoteBlob, pull_image, push_image
from packager.oci.session import Access
from packager.oci.tar import Entry, InlineContent


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with FakeRegistry() as registry:
        yield registry


class Waits(list):
    """The seconds that a client would have slept."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def access(credential: Credential | None = None, waits: Waits | None = None, **more) -> Access:
    return Access(credentials=lambda _: credential, sleep=Waits() if waits is None else waits, **more)


def image(*titles: str, size: int = 300_000) -> Image:
    """Deterministic images of one layer a title."""
    return make_image(
        ImageConfig("amd64"),
        [make_layer([Entry(title, content=InlineContent(title.encode() * size))], title=title) for title in titles],
    )


def at(fake: FakeRegistry, repository: str = "team/demo", tag: str = "1") -> Reference:
    return Reference(fake.host, repository, tag)


def bytes_of(layer: Layer) -> bytes:
    return b"".join(layer.blob.open())


class TestPush:
    def test_every_byte_arrives_and_the_manifest_comes_last(self, fake):
        built = image("a", "b")
        report = push_image(built, at(fake), access=access())
        sent = sum(layer.size for layer in built.layers) + len(built.config)
        assert report == PushReport(built.manifest_digest, sent, uploaded=3, mounted=0, skipped=0)
        assert fake.manifests["team/demo"]["1"] == (MANIFEST, built.manifest)
        assert fake.requests[-1].method == "PUT"
        assert fake.requests[-1].path.endswith("/manifests/1")
        assert fake.blobs["team/demo"][built.layers[0].digest] == bytes_of(built.layers[0])

    def test_what_is_there_is_not_sent(self, fake):
        push_image(image("a"), at(fake), access=access())
        fake.requests.clear()
        report = push_image(image("a", "b"), at(fake, tag="2"), access=access())
        assert (report.uploaded, report.skipped) == (2, 1)
        assert len(fake.seen("^PUT .*/uploads/")) == 2

    def test_progress_reaches_the_end_of_each_blob(self, fake):
        seen, lock = {}, threading.Lock()

        def progress(title: str, done: int, total: int) -> None:
            with lock:
                assert done >= seen.get(title, (0, 0))[0]
                seen[title] = (done, total)

        built = image("a", "b")
        push_image(built, at(fake), progress=progress, access=access())
        assert {title: total for title, (done, total) in seen.items() if done == total} == {
            "a": built.layers[0].size,
            "b": built.layers[1].size,
            "config": len(built.config),
        }

    def test_a_reference_with_a_digest_must_be_the_images(self, fake):
        built = image("a")
        push_image(built, Reference(fake.host, "team/demo", "", built.manifest_digest), access=access())
        assert built.manifest_digest in fake.manifests["team/demo"]
        with pytest.raises(ImageError, match="that the reference asks for"):
            push_image(built, Reference(fake.host, "team/demo", "", "sha256:" + "0" * 64), access=access())

    def test_without_tag_or_digest_it_is_latest(self, fake):
        push_image(image("a"), Reference(fake.host, "team/demo"), access=access())
        assert "latest" in fake.manifests["team/demo"]

    def test_a_layer_that_is_not_its_digest_stops_the_push(self, fake):
        good = make_layer([Entry("x")], title="x")
        bad = Layer(RecipeBlob(good.digest, good.size, lambda: iter([bytes(good.size)])), good.diff_id, LAYER_GZIP, "x")
        with pytest.raises(IntegrityError):
            push_image(make_image(ImageConfig("amd64"), [bad]), at(fake), access=access())
        assert not fake.manifests.get("team/demo")

    def test_a_registry_that_rewrites_the_manifest_is_found(self, fake):
        fake.faults.append(Fault("^PUT .*/manifests/", status=201, headers={"Docker-Content-Digest": "sha256:other"}))
        with pytest.raises(IntegrityError, match="stored the manifest as"):
            push_image(image("a"), at(fake), access=access())


class TestMount:
    def test_layers_pulled_from_a_neighbour_are_mounted(self, fake):
        push_image(image("a", "b"), at(fake, "team/first"), access=access())
        report = push_image(
            pull_image(at(fake, "team/first"), access=access()), at(fake, "team/second"), access=access()
        )
        assert (report.mounted, report.uploaded) == (2, 1)

    def test_with_a_token_for_both_repositories(self):
        with FakeRegistry("bearer") as fake:
            login = access(Credential("ada", "s3cret/+"))
            built = image("a")
            push_image(built, at(fake, "team/first"), access=login)
            mounts = {built.layers[0].digest: "team/first"}
            assert push_image(built, at(fake, "team/second"), mounts=mounts, access=login).mounted == 1

    def test_a_registry_that_does_not_mount_gets_the_bytes(self, fake):
        fake.mounting = False
        built = image("a")
        mounts = {built.layers[0].digest: "team/first"}
        assert push_image(built, at(fake), mounts=mounts, access=access()).uploaded == 2
        assert not fake.uploads

    def test_a_registry_that_refuses_mounts_gets_the_bytes(self, fake):
        fake.faults.append(Fault(r"^POST .*mount=", times=9, status=405))
        built = image("a")
        assert push_image(built, at(fake), mounts={built.layers[0].digest: "x"}, access=access()).uploaded == 2


class TestRetries:
    def test_a_broken_upload_is_sent_again_whole(self, fake):
        fake.faults.append(Fault("^PUT .*/uploads/", drop=100_000))
        waits = Waits()
        built = image("a")
        push_image(built, at(fake), access=access(waits=waits, threads=1))
        assert fake.blobs["team/demo"][built.layers[0].digest] == bytes_of(built.layers[0])
        assert waits == [1.0]

    @pytest.mark.parametrize("status", [429, 503])
    def test_waits_as_long_as_the_registry_says(self, fake, status):
        fake.faults.append(Fault("^POST ", status=status, headers={"Retry-After": "7"}))
        waits = Waits()
        push_image(image("a"), at(fake), access=access(waits=waits))
        assert waits == [7.0]

    def test_never_waits_longer_than_a_minute(self, fake):
        fake.faults.append(
            Fault("^HEAD ", times=2, status=503, headers={"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"})
        )
        waits = Waits()
        push_image(image("a"), at(fake), access=access(waits=waits, threads=1))
        assert waits == [60.0, 60.0]

    def test_gives_up_after_its_attempts(self, fake):
        fake.faults.append(Fault("^HEAD ", times=99, status=502))
        waits = Waits()
        with pytest.raises(RegistryError, match="is failing") as caught:
            push_image(image("a"), at(fake), access=access(waits=waits, threads=1, attempts=3))
        assert len(waits) == 2
        assert caught.value.problems[0].where == f"{fake.host}/team/demo:1"

    def test_one_failure_stops_the_other_uploads(self, fake):
        fake.faults.append(Fault("^POST ", times=99, status=403))
        with pytest.raises(RegistryError, match="does not allow"):
            push_image(image(*"abcdefgh"), at(fake), access=access())
        assert not fake.manifests.get("team/demo")


class TestChunks:
    CHUNKED = {"monolithic": 1000, "chunk": 65_536, "threads": 1}  # noqa: RUF012

    def test_large_blobs_go_in_chunks(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access(**self.CHUNKED))
        assert fake.blobs["team/demo"][built.layers[0].digest] == bytes_of(built.layers[0])
        lengths = [int(seen.headers["Content-Length"]) for seen in fake.seen("^PATCH ")]
        assert sum(lengths) == built.layers[0].size
        assert set(lengths[:-1]) == {65_536}

    def test_the_registrys_least_chunk_is_kept(self, fake):
        fake.chunk_min = 200_000
        push_image(image("a"), at(fake), access=access(**self.CHUNKED))
        assert int(fake.seen("^PATCH ")[0].headers["Content-Length"]) == 200_000

    @pytest.mark.parametrize("drop", [1, 30_000, 65_535])
    def test_goes_on_where_the_registry_stopped(self, fake, drop):
        fake.faults.append(Fault(r"^PATCH .*state=131072", drop=drop))
        built = image("a")
        push_image(built, at(fake), access=access(**self.CHUNKED))
        assert fake.blobs["team/demo"][built.layers[0].digest] == bytes_of(built.layers[0])
        starts = [int(seen.headers["Content-Range"].partition("-")[0]) for seen in fake.seen("^PATCH ")]
        assert starts[:4] == [0, 65_536, 131_072, 131_072 + drop]
        assert len(fake.seen("^GET .*/uploads/")) == 1

    def test_begins_again_when_the_registry_has_forgotten(self, fake):
        fake.resumable = False
        fake.faults.append(Fault(r"^PATCH .*state=65536", drop=10))
        built = image("a")
        push_image(built, at(fake), access=access(**self.CHUNKED))
        assert fake.blobs["team/demo"][built.layers[0].digest] == bytes_of(built.layers[0])
        starts = [int(seen.headers["Content-Range"].partition("-")[0]) for seen in fake.seen("^PATCH ")]
        assert starts[:3] == [0, 65_536, 0]

    def test_a_wrong_layer_is_found_before_the_upload_is_closed(self, fake):
        good = image("a").layers[0]
        bad = Layer(RecipeBlob(good.digest, good.size, lambda: iter([bytes(good.size)])), good.diff_id, LAYER_GZIP, "x")
        with pytest.raises(IntegrityError):
            push_image(make_image(ImageConfig("amd64"), [bad]), at(fake), access=access(**self.CHUNKED))
        assert good.digest not in fake.blobs.get("team/demo", {})


class TestPull:
    def test_brings_back_what_was_pushed(self, fake):
        built = image("a", "b")
        push_image(built, at(fake), access=access())
        for reference in (at(fake), at(fake).with_digest(built.manifest_digest)):
            pulled = pull_image(reference, access=access())
            assert (pulled.manifest, pulled.config) == (built.manifest, built.config)
            assert [bytes_of(layer) for layer in pulled.layers] == [bytes_of(layer) for layer in built.layers]
            assert [layer.title for layer in pulled.layers] == ["a", "b"]

    def test_reads_no_layer_before_it_is_asked_for(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access())
        fake.requests.clear()
        pull_image(at(fake), access=access())
        assert [seen.method for seen in fake.requests] == ["GET", "GET"]

    def test_an_index_leads_to_the_platforms_image(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access())
        config, _ = parse_image(built.manifest, where="x")
        rows = [
            (type(config)(MANIFEST, digest, len(built.manifest)), {"platform": {"os": "linux", "architecture": name}})
            for name, digest in (("arm64", "sha256:" + "0" * 64), ("amd64", built.manifest_digest))
        ]
        fake.put_manifest("team/demo", "multi", image_index(rows), INDEX)
        assert pull_image(at(fake, tag="multi"), access=access()).manifest == built.manifest
        with pytest.raises(ImageError, match="no image for linux/riscv64"):
            pull_image(at(fake, tag="multi"), architecture="riscv64", access=access())

    def test_an_image_of_another_platform_is_refused(self, fake):
        push_image(image("a"), at(fake), access=access())
        with pytest.raises(ImageError, match="for linux/amd64, not linux/arm64"):
            pull_image(at(fake), architecture="arm64", access=access())

    @pytest.mark.parametrize("ranges", [True, False])
    def test_a_broken_download_goes_on_where_it_broke(self, fake, ranges):
        fake.ranges = ranges
        built = image("a")
        push_image(built, at(fake), access=access())
        (layer,) = pull_image(at(fake), access=access()).layers
        fake.faults.append(Fault(rf"^GET .*/blobs/{layer.digest}", times=2, drop=100_000))
        assert bytes_of(layer) == bytes_of(built.layers[0])
        ranges_asked = [seen.headers.get("Range") for seen in fake.seen(f"^GET .*/blobs/{layer.digest}")]
        assert ranges_asked[0] is None
        assert None not in ranges_asked[1:]

    def test_other_bytes_than_promised_are_refused(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access())
        (layer,) = pull_image(at(fake), access=access()).layers
        fake.blobs["team/demo"][layer.digest] = bytes(layer.size)
        with pytest.raises(IntegrityError, match="are not those of"):
            bytes_of(layer)
        fake.blobs["team/demo"][built.config_digest] = b"{}"
        with pytest.raises(IntegrityError, match="other bytes"):
            pull_image(at(fake), access=access())
        fake.manifests["team/demo"][built.manifest_digest] = (MANIFEST, b"{}")
        with pytest.raises(IntegrityError, match="gave a manifest"):
            pull_image(at(fake).with_digest(built.manifest_digest), access=access())

    @pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"config":{},"layers":[]}', b'{"config":1,"layers":2}'])
    def test_what_is_no_manifest_is_refused(self, fake, data):
        fake.put_manifest("team/demo", "1", data, MANIFEST)
        with pytest.raises((RegistryError, ImageError), match=r"manifest|not an image"):
            pull_image(at(fake), access=access())

    def test_a_manifest_that_is_far_too_large_is_refused(self, fake):
        fake.put_manifest("team/demo", "1", bytes(17 << 20), MANIFEST)
        with pytest.raises(RegistryError, match="too large"):
            pull_image(at(fake), access=access())


class TestFacts:
    def test_manifests_and_blobs_are_found_without_reading_them(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access())
        with Registry(at(fake), access=access()) as registry:
            assert registry.find_manifest("1") == built.manifest_digest
            assert registry.find_manifest("2") is None
            assert registry.has_blob(built.config_digest)
            assert not registry.has_blob("sha256:" + "0" * 64)


class TestRights:
    @pytest.mark.parametrize("auth", ["basic", "bearer"])
    def test_a_login_may_push_and_pull(self, auth):
        with FakeRegistry(auth) as fake:
            built = image("a", "b", "c", "d")
            login = access(Credential("ada", "s3cret/+"))
            push_image(built, at(fake), access=login)
            pulled = pull_image(at(fake), access=login)
            assert bytes_of(pulled.layers[0]) == bytes_of(built.layers[0])

    def test_an_identity_token_buys_a_token(self):
        with FakeRegistry("bearer") as fake:
            fake.identity_token = "refresh-me"
            push_image(image("a"), at(fake), access=access(Credential(identity_token="refresh-me")))
            assert fake.seen("^POST /token")

    def test_anonymous_may_pull_with_a_token(self):
        with FakeRegistry("bearer") as fake:
            push_image(image("a"), at(fake), access=access(Credential("ada", "s3cret/+")))
            assert pull_image(at(fake), access=access()).layers

    def test_a_token_that_ran_out_is_replaced(self):
        with FakeRegistry("bearer") as fake:
            login = access(Credential("ada", "s3cret/+"), threads=1)
            built = image("a", "b")
            make = built.layers[0].blob.make

            runs = []

            def expire() -> Iterator[bytes]:
                if not runs:
                    fake.tokens.clear()
                runs.append(1)
                return make()

            first = built.layers[0]
            slow = Layer(RecipeBlob(first.digest, first.size, expire), first.diff_id, first.media_type, "a")
            push_image(Image(built.manifest, built.config, (slow, built.layers[1])), at(fake), access=login)
            assert "1" in fake.manifests["team/demo"]
            assert len(runs) == 2

    @pytest.mark.parametrize(
        ("auth", "credential", "what"),
        [
            ("basic", None, "wants a login"),
            ("basic", Credential("ada", "wrong"), "wants a login"),
            ("bearer", None, "wants a login"),
            ("bearer", Credential("ada", "wrong"), "wants a login"),
        ],
    )
    def test_without_the_right_a_push_is_refused(self, auth, credential, what):
        with FakeRegistry(auth) as fake:
            with pytest.raises(RegistryError, match=what) as caught:
                push_image(image("a"), at(fake), access=access(credential))
            problem = caught.value.problems[0]
            assert f"docker login {fake.host}" in problem.mend
            assert "wrong" not in problem.what.replace("wrong secret", "")

    @pytest.mark.parametrize(
        ("status", "body", "what"),
        [
            (403, b'{"errors":[{"code":"DENIED","message":"quota"}]}', "does not allow this.*DENIED quota"),
            (404, b"<html>", "does not know this name"),
            (413, b"", "too large"),
            (418, b"[]", "refused.*418"),
        ],
    )
    def test_refusals_say_what_the_registry_said(self, fake, status, body, what):
        fake.faults.append(Fault("^POST ", times=9, status=status, body=body))
        with pytest.raises(RegistryError, match=what) as caught:
            push_image(image("a"), at(fake), access=access())
        assert caught.value.problems[0].mend

    def test_an_unknown_image(self, fake):
        with pytest.raises(RegistryError, match="does not know this name"):
            pull_image(at(fake, "team/none"), access=access())

    def test_a_registry_that_is_not_there(self, fake):
        gone = Reference("127.0.0.1:9", "team/demo", "1")
        waits = Waits()
        with pytest.raises(RegistryError, match="cannot be reached"):
            pull_image(gone, access=access(waits=waits))
        assert not waits


class TestRedirects:
    def test_credentials_do_not_follow_to_another_host(self):
        with FakeRegistry("basic") as fake, FakeRegistry() as store:
            login = access(Credential("ada", "s3cret/+"))
            built = image("a")
            push_image(built, at(fake), access=login)
            store.blobs = fake.blobs
            fake.redirect = f"http://{store.host}"
            (layer,) = pull_image(at(fake), access=login).layers
            assert bytes_of(layer) == bytes_of(built.layers[0])
            assert store.requests
            assert not [seen for seen in store.requests if "Authorization" in seen.headers]

    def test_a_redirect_never_leaves_https(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access())
        fake.redirect = "http://store.example.com"
        with pytest.raises(RegistryError, match="not HTTPS"):
            pull_image(at(fake), access=access())

    def test_a_circle_ends(self, fake):
        built = image("a")
        push_image(built, at(fake), access=access())
        fake.redirect = f"http://{fake.host}"
        with pytest.raises(RegistryError, match="in circles"):
            pull_image(at(fake), access=access())

    def test_plain_http_is_for_loopback_only(self):
        hosts = {"127.0.0.1:5000": "http", "localhost": "http", "[::1]:5": "http", "registry.example.com": "https"}
        for host, scheme in hosts.items():
            with Registry(Reference(host, "a"), access=access()) as registry:
                assert registry.session.root.scheme == scheme


def test_a_remote_blob_shows_no_secret():
    blob = RemoteBlob(Reference("r.example.com", "a"), "sha256:x", 1, access(Credential("ada", "hunter2")))
    assert "hunter2" not in repr(blob)
    assert "hunter2" not in repr(Credential("ada", "hunter2", "hunter2"))


def test_manifests_of_docker_keep_their_media_type(fake):
    built = image("a")
    docker = json.loads(built.manifest)
    docker["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    foreign = Image(json.dumps(docker).encode(), built.config, built.layers)
    push_image(foreign, at(fake), access=access())
    assert fake.manifests["team/demo"]["1"][0] == docker["mediaType"]
