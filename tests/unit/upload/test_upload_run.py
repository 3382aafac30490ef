"""Uploads end to end: what was sent is listed and read back by the sources that specs name."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub import Hub
from fakes.s3 import FakeS3, Refusal
from fakes.web import Status

from packager.errors import OutputError
from packager.store import Store
from packager.upload.plan import UploadPlan
from packager.upload.run import UploadOptions, open_destination, plan_upload, run_plan
from packager.weights.schemes import open_source
from packager.weights.source import read_file

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's, of httpx2

TOKEN = "hf_ada"
BIG = bytes(range(256)) * (11 << 12)  # above the sizes from which boto3 sends in parts, and the hub wants it apart
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": BIG,
    "sub/empty": b"",
    "sub/tokenizer.json": b"{}",
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in FILES.items():
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "model"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3() as server:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.bucket("models")
        yield server


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        server.tokens.add(TOKEN)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def upload(what: Path, address: str, store: Store, **options: object) -> tuple[UploadPlan, str]:
    destination = open_destination(address, UploadOptions(**options), store)  # type: ignore[arg-type]
    plan = plan_upload(what, destination, store)
    return plan, run_plan(plan, destination, store)


def read_back(address: str, revision: str = "") -> dict[str, bytes]:
    source = open_source(address, revision=revision)
    return {file.path: read_file(source, file) for file in source.inventory()}


def refused(what: Path, address: str, store: Store, **options: object) -> str:
    with pytest.raises(OutputError) as caught:
        upload(what, address, store, **options)
    return "\n".join(f"{one.where}: {one.what}: {one.mend}" for one in caught.value.problems)


def paths(files: object) -> list[str]:
    return [file.path for file in files]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["file", "s3", "hf"])
def test_what_was_uploaded_is_read_back(
    kind: str, folder: Path, store: Store, tmp_path: Path, s3: FakeS3, hub: Hub
) -> None:
    address = {"file": f"file://{tmp_path}/there", "s3": "s3://models/llama/v1", "hf": "hf://ada/llama/v1"}[kind]
    plan, commit = upload(folder, address, store)
    assert (paths(plan.send), paths(plan.present)) == (sorted(FILES), [])
    assert read_back(address, commit) == FILES
    listed = open_source(address, revision=commit).inventory()
    big = next(file for file in listed if file.path == "model.safetensors")
    assert big.sha256 == (None if kind == "file" else hashlib.sha256(BIG).hexdigest())
    assert len(commit) == (40 if kind == "hf" else 0)

    again, same = upload(folder, address, store)
    assert (paths(again.send), paths(again.present), same) == ([], sorted(FILES), commit)

    (folder / "config.json").write_bytes(b'{"model_type": "mistra"}')
    changed, _ = upload(folder, address, store)
    assert (paths(changed.send), len(changed.present)) == (["config.json"], len(FILES) - 1)
    assert read_back(address)["config.json"] == b'{"model_type": "mistra"}'


@pytest.mark.parametrize("address", ["s3://models", "hf://ada/whole"])
def test_a_whole_bucket_or_repository(address: str, folder: Path, store: Store, s3: FakeS3, hub: Hub) -> None:
    upload(folder, address, store)
    assert read_back(address) == FILES


def test_what_else_is_there_stays_and_is_told(folder: Path, store: Store, s3: FakeS3) -> None:
    s3.put("models", "llama/old.safetensors", b"old")
    plan, _ = upload(folder, "s3://models/llama", store)
    assert plan.others == ("old.safetensors",)
    assert "old.safetensors" in read_back("s3://models/llama")


def test_an_upload_that_broke_off_goes_on(folder: Path, store: Store, s3: FakeS3) -> None:
    s3.refusals = [Refusal("PUT .*safetensors", 403, "AccessDenied")]
    text = refused(folder, "s3://models/llama", store)
    assert "s3://models/llama/model.safetensors: access is denied" in text
    assert "s3:PutObject" in text
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket="models")  # no parts are left to be paid for
    s3.refusals = []
    s3.asked.clear()
    plan, _ = upload(folder, "s3://models/llama", store)
    assert "model.safetensors" in paths(plan.send)
    sent = {one.path for one in s3.requests("PUT")}
    assert not sent & {f"/models/llama/{file.path}" for file in plan.present}
    assert read_back("s3://models/llama") == FILES


def test_a_bucket_that_is_not_there(folder: Path, store: Store, s3: FakeS3) -> None:
    assert "s3://nobody/llama/: there is no such bucket" in refused(folder, "s3://nobody/llama", store)


def test_a_file_that_changes_meanwhile_is_an_error(folder: Path, store: Store, tmp_path: Path) -> None:
    destination = open_destination(f"file://{tmp_path}/there", UploadOptions(), store)
    plan = plan_upload(folder, destination, store)
    (folder / "config.json").write_bytes(b'{"model_type": "other"}')
    with pytest.raises(OutputError, match="the file changed while it was uploaded"):
        run_plan(plan, destination, store)


def test_a_place_that_somebody_else_writes_to_is_an_error(folder: Path, store: Store, s3: FakeS3) -> None:
    upload(folder, "s3://models/llama", store)
    destination = open_destination("s3://models/llama", UploadOptions(), store)
    plan = plan_upload(folder, destination, store)
    s3.put("models", "llama/config.json", b"{}")
    with pytest.raises(OutputError, match=r"config\.json has 2 bytes there, and 23 here"):
        run_plan(plan, destination, store)


def test_a_folder_has_whole_files_or_none(folder: Path, store: Store, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "sub").mkdir(parents=True)
    (there / "sub/tokenizer.json").mkdir()  # where a file is to go
    assert "the file cannot be written" in refused(folder, f"file://{there}", store)
    assert sorted(path.name for path in there.rglob("*") if path.is_file()) == [
        "config.json",
        "empty",
        "model.safetensors",
    ]
    (there / "sub/tokenizer.json").rmdir()
    plan, _ = upload(folder, f"file://{there}", store)
    assert paths(plan.send) == ["sub/tokenizer.json"]


def test_a_file_where_the_folder_should_be(folder: Path, store: Store) -> None:
    assert "there is a file where the folder should be" in refused(folder, f"file://{folder}/config.json", store)


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_progress_is_told_to_the_last_byte(kind: str, folder: Path, store: Store, s3: FakeS3, tmp_path: Path) -> None:
    address = {"s3": "s3://models/llama", "file": f"file://{tmp_path}/there"}[kind]
    destination = open_destination(address, UploadOptions(), store)
    plan = plan_upload(folder, destination, store)
    told: dict[str, tuple[int, int]] = {}
    run_plan(plan, destination, store, lambda title, done, total: told.update({title: (done, total)}))
    assert told == {name: (len(data), len(data)) for name, data in FILES.items() if data}


def test_the_longest_names_there_are(folder: Path, store: Store, tmp_path: Path) -> None:
    name = "\u6a21" * 85  # 255 bytes
    (folder / name).write_bytes(b"x")
    upload(folder, f"file://{tmp_path}/there", store)
    assert read_back(f"file://{tmp_path}/there")[name] == b"x"


def test_a_hub_whose_address_ends_in_a_slash(
    folder: Path, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirrors/hub/")
    refused(folder, "hf://ada/llama", store)
    assert {one.path.partition("/api/")[0] for one in hub.requests} == {"/mirrors/hub"}


def test_a_branch_and_a_message(folder: Path, store: Store, hub: Hub) -> None:
    upload(folder / "config.json", "hf://ada/llama", store)
    plan, commit = upload(folder, "hf://ada/llama", store, revision="quantized", message="int4")
    assert paths(plan.present) == ["config.json"]  # a new branch begins as main
    assert read_back("hf://ada/llama", "quantized") == read_back("hf://ada/llama", commit) == FILES
    assert sorted(read_back("hf://ada/llama")) == ["config.json"]


def test_an_upload_to_the_hub_that_broke_off_goes_on(folder: Path, store: Store, hub: Hub) -> None:
    hub.faults = lambda one: Status(500) if "/commit/" in one.path else None
    text = refused(folder, "hf://ada/llama", store)
    assert "the hub refused with status 500: run it again" in text
    assert read_back("hf://ada/llama") == {}  # nothing is half there
    hub.faults, before = lambda _: None, len(hub.requests)
    told: dict[str, int] = {}
    destination = open_destination("hf://ada/llama", UploadOptions(), store)
    run_plan(
        plan_upload(folder, destination, store), destination, store, lambda title, done, _: told.update({title: done})
    )
    assert not [one.path for one in hub.requests[before:] if one.method == "PUT"]
    assert told == {"model.safetensors": len(BIG)}
    assert read_back("hf://ada/llama") == FILES


def test_private_is_made_and_never_pretended(folder: Path, store: Store, hub: Hub) -> None:
    upload(folder, "hf://ada/secret", store, private=True)
    assert hub.repos["ada/secret"].private
    upload(folder, "hf://ada/secret", store, private=True)
    upload(folder, "hf://ada/open", store)
    assert not hub.repos["ada/open"].private
    assert "the repository exists and is public" in refused(folder, "hf://ada/open", store, private=True)


def test_a_hub_that_does_not_know_us(folder: Path, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    text = refused(folder, "hf://ada/llama", store)
    assert "does not let this token write here" in text
    assert "hf_stranger" not in text


def test_a_hub_that_gets_no_token(
    folder: Path, store: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))  # read at its import
    text = refused(folder, "hf://ada/llama", store)
    assert text == (
        "hf://ada/llama: the hub lets nobody write without a token, and none was sent: "
        "set HF_TOKEN to a token that may write there, or log in with `hf auth login`"
    )


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("models/llama", "is no address to upload to"),
        ("https://example.com/llama", "is no address to upload to"),
        ("s3://", "is no address to upload to"),
        ("s3://models//llama", "is empty, `.` or `..`"),
        ("s3://models/../llama", "is empty, `.` or `..`"),
        ("hf://llama", "no repository's name"),
    ],
)
def test_addresses_that_cannot_be_written(address: str, said: str, folder: Path, store: Store) -> None:
    assert said in refused(folder, address, store)


@pytest.mark.parametrize("address", ["s3://models/llama", "file:///nowhere"])
def test_options_of_the_hub_are_never_dropped(address: str, folder: Path, store: Store) -> None:
    text = refused(folder, address, store, revision="main", private=True)
    assert "has no use for --revision and --private" in text
