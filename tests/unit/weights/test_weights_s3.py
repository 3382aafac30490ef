import hashlib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from fakes.cli import ROOT
from fakes.s3 import SECRET, FakeS3, Refusal
from fakes.web import Web

from packager.errors import LoadError, TransferError
from packager.manifest import WeightsFile
from packager.store import Store
from packager.weights.fetch import Wanted, fetch_files
from packager.weights.s3 import LIFETIME, object_sha256
from packager.weights.schemes import open_source
from packager.weights.source import Source, SourceFile, read_file

CONFIG, WEIGHTS = b'{"model_type": "llama"}', bytes(range(256)) * 4096


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    """A store with the bucket `models`; this process finds it as users' do."""
    with FakeS3() as server:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.bucket("models")
        server.asked.clear()
        yield server


def put_folder(s3: FakeS3) -> None:
    """Anyone may read it, while the store lets in those who do not sign."""
    s3.put("models", "tiny/config.json", CONFIG, ACL="public-read")
    s3.put("models", "tiny/weights/model.safetensors", WEIGHTS, ACL="public-read")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def refused(source: Source) -> str:
    """All that people are told, where a source cannot be listed."""
    with pytest.raises(LoadError) as caught:
        source.inventory()
    problem = caught.value.problems[0]
    text = f"{problem.where}: {problem.what}: {problem.mend}"
    assert SECRET not in text
    return text


def test_a_folder_is_everything_below_the_prefix_with_a_slash(s3: FakeS3) -> None:
    put_folder(s3)
    s3.put("models", "tiny/", b"")
    s3.put("models", "tiny/weights/", b"")
    s3.put("models", "tiny/.cache/x", b"x")
    s3.put("models", "tiny2/config.json", b"{}")
    source = open_source("s3://models/tiny")
    assert [(file.path, file.size) for file in source.inventory()] == [
        ("config.json", len(CONFIG)),
        ("weights/model.safetensors", len(WEIGHTS)),
    ]
    assert source.uri == "s3://models/tiny"
    assert open_source("s3://models/tiny/").inventory() == source.inventory()
    assert read_file(source, source.inventory()[1]) == WEIGHTS


def test_one_object_is_a_folder_of_itself(s3: FakeS3) -> None:
    s3.put("models", "gguf/model.gguf", WEIGHTS, ChecksumAlgorithm="SHA256")
    s3.put("models", "gguf/model.gguf.md5", b"")
    source = open_source("s3://models/gguf/model.gguf")
    (file,) = source.inventory()
    assert file == SourceFile("model.gguf", len(WEIGHTS), sha256(WEIGHTS))
    assert read_file(open_source("s3://models/gguf/model.gguf"), file) == WEIGHTS  # and without a listing, as in load()


def test_a_folder_may_hold_a_file_of_its_own_name(s3: FakeS3) -> None:
    s3.put("models", "model.gguf/model.gguf", WEIGHTS)
    source = open_source("s3://models/model.gguf")
    (file,) = source.inventory()
    assert file.path == "model.gguf"
    assert read_file(open_source("s3://models/model.gguf"), file) == WEIGHTS


def test_a_whole_bucket(s3: FakeS3) -> None:
    s3.put("models", "config.json", CONFIG)
    source = open_source("s3://models")
    assert [file.path for file in source.inventory()] == ["config.json"]
    assert read_file(source, source.inventory()[0]) == CONFIG


def test_names_are_taken_as_they_stand(s3: FakeS3) -> None:
    names = ("a b+c%20d.json", "empty.json", "ü/ä.json")
    for name in names:
        s3.put("models", f"odd folder/{name}", b"" if name == "empty.json" else CONFIG)
    source = open_source("s3://models/odd folder")
    assert [file.path for file in source.inventory()] == list(names)
    assert [read_file(source, file) for file in source.inventory()] == [CONFIG, b"", CONFIG]


def test_listings_have_pages(s3: FakeS3) -> None:
    s3.page = 3
    for number in range(7):
        s3.put("models", f"many/{number}.json", b"{}")
    assert len(open_source("s3://models/many").inventory()) == 7
    assert len([one for one in s3.requests("GET") if "continuation-token" in one.query]) == 2


def test_digests_come_from_whole_checksums_and_from_what_upload_writes(s3: FakeS3) -> None:
    s3.put("models", "f/a-plain", b"plain")
    s3.put("models", "f/b-checked", b"checked", ChecksumAlgorithm="SHA256")
    s3.put("models", "f/c-told", b"told", Metadata={"sha256": sha256(b"told")})
    s3.put("models", "f/d-nonsense", b"nonsense", Metadata={"sha256": "abc"})
    s3.put_in_parts("models", "f/e-parts", b"p" * (6 << 20))
    s3.put("models", "f/f-other", b"other", ChecksumAlgorithm="CRC32")
    found = {file.path: file.sha256 for file in open_source("s3://models/f").inventory()}
    assert found == {
        "a-plain": None,
        "b-checked": sha256(b"checked"),
        "c-told": sha256(b"told"),
        "d-nonsense": None,
        "e-parts": None,
        "f-other": None,
    }


def test_what_a_store_computed_counts_more_than_what_somebody_wrote() -> None:
    whole = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="  # of b"abc"
    lie = {"sha256": "0" * 64}
    one = {"ETag": '"900150983cd24fb0d6963f7d28e17f72"', "Metadata": lie, "ChecksumSHA256": whole}
    assert object_sha256({**one, "ChecksumType": "FULL_OBJECT"}) == sha256(b"abc")
    assert object_sha256({**one, "ChecksumType": "COMPOSITE"}) == "0" * 64
    assert object_sha256({**one, "ETag": '"900150983cd24fb0d6963f7d28e17f72-2"', "Metadata": {}}) is None
    assert object_sha256({**one, "ChecksumSHA256": f"{whole}-2", "Metadata": {}}) is None


def test_without_credentials_it_asks_unsigned(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    put_folder(s3)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3.asked.clear()
    source = open_source("s3://models/tiny")
    assert read_file(source, source.inventory()[0]) == CONFIG
    assert not any("authorization" in one.headers or one.query.get("X-Amz-Signature") for one in s3.asked)
    s3.public = False
    text = refused(open_source("s3://models/tiny"))
    assert "access is denied" in text
    assert "AWS_ACCESS_KEY_ID" in text


def test_a_bucket_in_another_region_is_followed_there(s3: FakeS3) -> None:
    s3.region = "eu-central-1"
    s3.bucket("elsewhere")
    s3.put("elsewhere", "tiny/config.json", CONFIG)
    (file,) = open_source("s3://elsewhere/tiny").inventory()
    s3.asked.clear()
    source = open_source("s3://elsewhere/tiny")
    assert read_file(source, file) == CONFIG
    assert "/eu-central-1/" in s3.requests("GET")[-1].query["X-Amz-Credential"]


def test_an_address_that_expired_is_made_anew(s3: FakeS3) -> None:
    put_folder(s3)
    source = open_source("s3://models/tiny")
    file = source.inventory()[1]
    with closing(source.connect()) as reader:
        assert b"".join(reader.read(file.path, 0, 10, file.size)) == WEIGHTS[:10]
        s3.refusals = [Refusal("GET .*safetensors", 403, "AccessDenied", times=1)]  # what an expired address gets
        assert b"".join(reader.read(file.path, 10, 20, file.size)) == WEIGHTS[10:20]
    assert not s3.refusals[0].times


def test_a_load_from_a_bucket_elsewhere(s3: FakeS3, tmp_path: Path) -> None:
    """Many readers at once, none of which has listed: as in a container."""
    s3.region = "eu-central-1"
    s3.bucket("elsewhere")
    for number in range(12):
        s3.put("elsewhere", f"tiny/{number}.safetensors", bytes([number]) + WEIGHTS)
    source = open_source("s3://elsewhere/tiny")
    files = [WeightsFile(f"{one}.safetensors", len(WEIGHTS) + 1, sha256(bytes([one]) + WEIGHTS)) for one in range(12)]
    store = Store(tmp_path)
    fetch_files([Wanted(file, source) for file in files], store)
    assert [store.path(file.sha256).read_bytes()[:1] for file in files] == [bytes([one]) for one in range(12)]


def test_a_container_needs_botocore_alone(s3: FakeS3) -> None:
    put_folder(s3)
    code = (
        "import sys\n"
        "for name in ('boto3', 's3transfer', 'huggingface_hub', 'httpx', 'httpx2', 'requests'): sys.modules[name] = None\n"
        "from packager.weights.schemes import open_source\n"
        "from packager.weights.source import read_file\n"
        "source = open_source('s3://models/tiny')\n"
        "print(*(len(read_file(source, file)) for file in source.inventory()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout.split(), done.stderr) == ([str(len(CONFIG)), str(len(WEIGHTS))], "")


def test_without_the_library_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['botocore'] = None\n"
        "from packager.weights.schemes import open_source\n"
        "try: open_source('s3://models/tiny').inventory()\n"
        "except Exception as error: print(type(error).__name__, error.problems[0].mend)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "LoadError pip install 'llm-packager[s3]'"


def test_a_clock_that_is_far_off_is_a_refusal_and_no_loop(s3: FakeS3) -> None:
    put_folder(s3)
    source = open_source("s3://models/tiny")
    file = source.inventory()[0]
    s3.clock = timedelta(seconds=LIFETIME + 60)
    with closing(source.connect()) as reader, pytest.raises(LoadError) as caught:
        list(reader.read(file.path, 0, file.size, file.size))
    assert len(s3.requests("GET")) < 6
    assert "X-Amz" not in str(caught.value)


def test_rights_that_end_while_it_reads_are_named(s3: FakeS3) -> None:
    put_folder(s3)
    source = open_source("s3://models/tiny")
    file = source.inventory()[1]
    with closing(source.connect()) as reader:
        assert b"".join(reader.read(file.path, 0, 10, file.size)) == WEIGHTS[:10]
        s3.refusals = [Refusal("(GET|HEAD) .*safetensors", 403, "AccessDenied")]
        with pytest.raises(LoadError, match="access is denied"):
            list(reader.read(file.path, 10, 20, file.size))


@pytest.mark.parametrize(
    ("storage", "denied", "said"),
    [
        ("STANDARD", True, "access is denied: the object may not be read"),
        ("DEEP_ARCHIVE", False, r"the object is archived \(DEEP_ARCHIVE\)"),
        ("GLACIER", False, r"the object is archived \(GLACIER\)"),
    ],
)
def test_one_of_many_that_is_not_given(s3: FakeS3, storage: str, denied: bool, said: str) -> None:
    """The answer to a signed address says 403 in all these cases."""
    put_folder(s3)
    s3.put("models", "tiny/other.safetensors", b"x" * 10, StorageClass=storage)
    s3.refusals = [Refusal("(GET|HEAD) .*other", 403, "AccessDenied")] * denied
    source = open_source("s3://models/tiny")
    with closing(source.connect()) as reader:
        assert b"".join(reader.read("config.json", 0, 5, len(CONFIG))) == CONFIG[:5]
        with pytest.raises(LoadError, match=said) as caught:
            list(reader.read("other.safetensors", 0, 10, 10))
    (problem,) = caught.value.problems
    assert problem.where == "s3://models/tiny/other.safetensors"
    assert "restore it" in problem.mend or "s3:GetObject" in problem.mend


def test_an_archived_object_that_was_restored(s3: FakeS3) -> None:
    s3.put("models", "tiny/m.safetensors", WEIGHTS, StorageClass="GLACIER")
    s3.client().restore_object(Bucket="models", Key="tiny/m.safetensors", RestoreRequest={"Days": 1})
    source = open_source("s3://models/tiny")
    with closing(source.connect()) as reader:
        assert b"".join(reader.read("m.safetensors", 0, 10, len(WEIGHTS))) == WEIGHTS[:10]


@pytest.mark.parametrize("listed", [False, True], ids=["as load() does", "as lock does"])
def test_one_object_that_may_not_be_read_is_not_called_missing(s3: FakeS3, listed: bool) -> None:
    s3.put("models", "gguf/model.gguf", WEIGHTS)
    s3.refusals = [Refusal(r"(GET|HEAD) /models/gguf/model\.gguf$", 403, "AccessDenied")]
    source = open_source("s3://models/gguf/model.gguf")
    with closing(source.connect()) as reader, pytest.raises(LoadError) as caught:
        _ = source.inventory() if listed else list(reader.read("model.gguf", 0, 10, len(WEIGHTS)))
    (problem,) = caught.value.problems
    assert problem.where == "s3://models/gguf/model.gguf"
    assert problem.what.startswith("access is denied: the object may not be read, or there is none")
    assert "s3:GetObject" in problem.mend
    assert "s3:ListBucket" in problem.mend


def test_a_bucket_that_may_not_be_listed(s3: FakeS3) -> None:
    put_folder(s3)
    s3.refusals = [Refusal("(GET|HEAD) /models(/tiny)?$", 403, "AccessDenied")]
    text = refused(open_source("s3://models/tiny"))
    assert (
        "access is denied: the bucket may not be listed: use credentials that have s3:ListBucket on the bucket and"
        in text
    )


def test_a_folder_whose_own_name_may_not_be_asked_about(s3: FakeS3) -> None:
    """Rights to what is below the prefix alone: nobody needs any to an object of the prefix's name."""
    put_folder(s3)
    s3.refusals = [Refusal("HEAD /models/tiny$", 403, "AccessDenied")]
    source = open_source("s3://models/tiny")
    assert read_file(source, source.inventory()[0]) == CONFIG
    unlisted = open_source("s3://models/tiny")
    with closing(unlisted.connect()) as reader, pytest.raises(LoadError, match="no such object") as caught:
        list(reader.read("gone.bin", 0, 10, 10))
    assert caught.value.problems[0].where == "s3://models/tiny/gone.bin"


def test_a_file_that_is_gone_is_named(s3: FakeS3) -> None:
    put_folder(s3)
    source = open_source("s3://models/tiny")
    with closing(source.connect()) as reader, pytest.raises(LoadError, match="no such object") as caught:
        list(reader.read("gone.bin", 0, 10, 10))
    assert caught.value.problems[0].where == "s3://models/tiny/gone.bin"


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "access is denied"),
        (403, "InvalidAccessKeyId", "does not know this access key"),
        (403, "SignatureDoesNotMatch", "secret key does not belong"),
        (400, "ExpiredToken", "credentials have expired"),
        (403, "RequestTimeTooSkewed", "clock is wrong"),
        (301, "PermanentRedirect", "another region"),
        (418, "Teapot", "the store refused: Teapot: Teapot it is"),
    ],
)
def test_refusals_in_words(s3: FakeS3, status: int, code: str, said: str) -> None:
    s3.refusals = [Refusal("GET /models", status, code)]
    assert said in refused(open_source("s3://models/tiny"))


def test_nothing_there(s3: FakeS3) -> None:
    assert "s3://nobody/tiny: there is no such bucket" in refused(open_source("s3://nobody/tiny")).replace(
        "tiny/", "tiny"
    )
    assert "s3://models/tiny: there are no weights here" in refused(open_source("s3://models/tiny"))
    assert "no bucket's name" in refused(open_source("s3://Not A Bucket/tiny"))


@pytest.mark.parametrize("status", [500, 503])
def test_a_store_that_fails_may_be_asked_again(s3: FakeS3, status: int) -> None:
    s3.refusals = [Refusal("GET /models", status, "SlowDown" if status == 503 else "InternalError")]
    with pytest.raises(TransferError) as caught:
        open_source("s3://models/tiny").inventory()
    assert caught.value.busy is (status == 503)


def test_a_store_out_of_reach(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://name:word@127.0.0.1:1")
    with pytest.raises(TransferError) as caught:
        open_source("s3://models/tiny").inventory()
    assert "not in reach" in str(caught.value)
    assert "word" not in str(caught.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "nowhere")
    assert "AWS_ENDPOINT_URL_S3" in refused(open_source("s3://models/tiny"))


@pytest.fixture
def private(tls: ssl.SSLContext, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A store with one object, behind a certificate of its own."""
    listing = b"<ListBucketResult><Contents><Key>tiny/a</Key><Size>3</Size></Contents></ListBucketResult>"
    with Web({"models": listing, "models/tiny/a": b"abc"}, tls=tls) as web:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", web.url)
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(name, raising=False)
        yield web


def test_a_store_whose_certificate_is_not_known(private: Web) -> None:
    said = refused(open_source("s3://models/tiny/"))
    assert said.startswith("s3://models/tiny/: the store's certificate is not trusted: name the file")
    assert "SSL_CERT_FILE" in said
    assert private.requests == []


def test_certificates_of_the_environment(private: Web, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    source = open_source("s3://models/tiny/")
    assert source.inventory() == (SourceFile("a", 3),)
    assert read_file(source, SourceFile("a", 3)) == b"abc"
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent/ca.pem")
    with pytest.raises(TransferError, match="not in reach"):
        open_source("s3://models/tiny/").inventory()


def test_settings_that_make_no_client(s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "unheard-of")
    assert "unheard-of" in refused(open_source("s3://models/tiny"))
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "missing: AWS_SECRET_ACCESS_KEY" in refused(open_source("s3://models/tiny"))
