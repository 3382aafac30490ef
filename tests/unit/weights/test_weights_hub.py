"""`hf://` against a hub on loopback, which the real client takes for one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fakes.hub import Hub
from fakes.machine import free_port
from fakes.web import Status

from packager.errors import LoadError, TransferError
from packager.weights.hub import HubSource
from packager.weights.schemes import open_source
from packager.weights.source import Source, SourceFile, read_file

TOKEN, OTHER = "hf_secretOfAda", "hf_secretOfBob"
BIG = bytes(range(256)) * 40
FILES = {"config.json": b"{}", "model.safetensors": BIG, "sub/deep/tokenizer.json": b"[1]", "sub/w.safetensors": b"abc"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.startswith(("HF_TOKEN", "HUGGING_FACE"))]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def add(hub: Hub, **options: object) -> str:
    return hub.add_repo("ada/model", FILES, lfs=("*.safetensors",), **options)  # type: ignore[arg-type]


def read(source: Source, path: str, start: int = 0, stop: int | None = None, size: int = 0) -> bytes:
    size = size or len(FILES[path])
    with closing(source.connect()) as reader:
        return b"".join(reader.read(path, start, size if stop is None else stop, size))


def problem(error: pytest.ExceptionInfo[LoadError]) -> str:
    """What, where and mend in one, which holds no token."""
    (found,) = error.value.problems
    text = f"{found.where}: {found.what}; {found.mend}"
    assert TOKEN not in text
    assert OTHER not in text
    return text


# Addresses.


@pytest.mark.parametrize("address", ["ada/model", "Ada_1/Llama-3.1-8B", "ada/model/sub/deep", "ada/model/a b@c"])
def test_addresses(address: str) -> None:
    source = open_source(f"hf://{address}", revision="refs/pr/1")
    assert (source.uri, source.revision) == (f"hf://{address}", "refs/pr/1")


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("ada/model@v1", "write it as `weights.revision`"),
        ("ada/model@refs/pr/1", "hf://ada/model@refs/pr/1: a revision stands in the address"),
        (f"{TOKEN}@ada/model", "write it as `weights.revision`"),
        ("model", "no repository's name; write hf://OWNER/NAME"),
        ("ada/", "no repository's name"),
        ("/model", "no repository's name"),
        ("ada/mo--del", "no repository's name"),
        ("ada/..", "no repository's name"),
        ("ada/model.git", "no repository's name"),
        ("-ada/model", "no repository's name"),
        ("ada/" + "m" * 97, "no repository's name"),
        ("ada/mödel", "no repository's name"),
        ("ada/model?x=1", "no repository's name"),
        ("ada/model/", "'' is no folder"),
        ("ada/model/../other", "'../other' is no folder"),
        ("ada/model/sub//x", "'sub//x' is no folder"),
        ("ada/model/sub\n", "is no folder"),
        ("datasets/ada/data", "begins with datasets/"),
    ],
)
def test_other_addresses(address: str, told: str) -> None:
    with pytest.raises(LoadError) as caught:
        open_source(f"hf://{address}")
    assert told in problem(caught)


@pytest.mark.parametrize("revision", ["a b", "a..b", "a\n", "x^1", "v1?download=true"])
def test_revisions_that_are_none(revision: str) -> None:
    with pytest.raises(LoadError, match="is no revision"):
        open_source("hf://ada/model", revision=revision)


# What is there.


def test_the_listing_pins_the_commit(hub: Hub) -> None:
    commit = add(hub)
    source = HubSource("ada/model")
    assert source.revision == ""
    entries = hub.repos["ada/model"].commits[commit]
    assert source.inventory() == (
        SourceFile("config.json", 2),
        SourceFile("model.safetensors", len(BIG), entries["model.safetensors"].sha256),
        SourceFile("sub/deep/tokenizer.json", 3),
        SourceFile("sub/w.safetensors", 3, entries["sub/w.safetensors"].sha256),
    )
    assert source.revision == commit


def test_what_was_listed_is_what_is_read_when_the_branch_moves(hub: Hub) -> None:
    add(hub)
    source = HubSource("ada/model")
    source.inventory()
    hub.commit("ada/model", {"config.json": b"{1}", "model.safetensors": b"other"})
    assert read(source, "config.json") == b"{}"
    assert read(source, "model.safetensors") == BIG
    locked = HubSource("ada/model", source.revision)
    assert locked.inventory() == source.inventory()
    assert read(locked, "model.safetensors") == BIG


def test_tags_branches_and_commits(hub: Hub) -> None:
    first = add(hub)
    hub.repos["ada/model"].tags["v1.0"] = first
    second = hub.commit("ada/model", {"config.json": b"{22}"})
    third = hub.commit("ada/model", {"config.json": b"{333}"}, branch="feature/x")
    for asked, commit, size in (
        ("v1.0", first, 2),
        ("", second, 4),
        ("main", second, 4),
        ("feature/x", third, 5),
        (first, first, 2),
    ):
        source = HubSource("ada/model", asked)
        assert (source.inventory()[0].size, source.revision) == (size, commit)


def test_without_a_lock_it_is_read_by_the_name_that_was_given(hub: Hub) -> None:
    add(hub)
    hub.commit("ada/model", {"config.json": b"{333}"}, branch="feature/x")
    assert read(HubSource("ada/model"), "config.json") == b"{}"
    assert read(HubSource("ada/model", "feature/x"), "config.json", size=5) == b"{333}"


def test_a_folder_within(hub: Hub) -> None:
    add(hub)
    source = HubSource("ada/model/sub")
    assert [file.path for file in source.inventory()] == ["deep/tokenizer.json", "w.safetensors"]
    assert read_file(source, SourceFile("deep/tokenizer.json", 3)) == b"[1]"
    assert read_file(source, SourceFile("w.safetensors", 3)) == b"abc"


def test_a_listing_of_several_pages(hub: Hub) -> None:
    names = [f"shards/{number:03}.bin" for number in range(25)]
    hub.page = 10
    hub.add_repo("ada/model", dict.fromkeys(names, b"x"))
    assert [file.path for file in HubSource("ada/model").inventory()] == names
    assert len([one for one in hub.requests if "/tree/" in one.path]) == 3


def test_hidden_files_are_left_out(hub: Hub) -> None:
    hub.add_repo("ada/model", {".gitattributes": b"*", "a/.cache/x": b"", "a/b": b"1"})
    assert HubSource("ada/model").inventory() == (SourceFile("a/b", 1),)


def test_odd_names_are_quoted(hub: Hub) -> None:
    names = ["a b.json", "a%20b.json", "c?d#e.json", "f+g&h=i.json", "größe/模型.json", "j@k:l.json"]
    hub.add_repo("ada/model", {name: name.encode() for name in names})
    source = HubSource("ada/model")
    files = source.inventory()
    assert [file.path for file in files] == sorted(names)
    assert [read_file(source, file).decode() for file in files] == sorted(names)


def test_a_folder_with_an_odd_name(hub: Hub) -> None:
    hub.add_repo("ada/model", {"a b%/c.json": b"1"})
    source = HubSource("ada/model/a b%")
    (file,) = source.inventory()
    assert (file.path, read_file(source, file)) == ("c.json", b"1")


# Rights.


def test_a_gated_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub, gated=True, token=TOKEN)
    with pytest.raises(LoadError) as caught:
        HubSource("ada/model").inventory()
    told = f"no token was sent; accept its licence at {hub.url}/ada/model, then set HF_TOKEN, or log in with `hf auth login`"
    assert told in problem(caught)
    hub.tokens.add(OTHER)
    monkeypatch.setenv("HF_TOKEN", OTHER)
    with pytest.raises(LoadError) as caught:
        HubSource("ada/model").inventory()
    assert "gated, and the token has no access" in problem(caught)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = HubSource("ada/model")
    source.inventory()
    assert read(source, "config.json") == b"{}"
    assert read(source, "model.safetensors") == BIG


def test_a_private_repository(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub, private=True, token=TOKEN)
    with pytest.raises(LoadError) as caught:
        HubSource("ada/model").inventory()
    assert "no such repository, or it is private and no token was sent; correct OWNER/NAME, or set HF_TOKEN" in problem(
        caught
    )
    hub.tokens.add(OTHER)
    monkeypatch.setenv("HF_TOKEN", OTHER)
    with pytest.raises(LoadError) as caught:
        HubSource("ada/model").inventory()
    assert "private and the token has no access; correct OWNER/NAME, or use a token that has access" in problem(caught)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = HubSource("ada/model")
    source.inventory()
    assert read(source, "sub/deep/tokenizer.json") == b"[1]"


def test_the_token_stays_with_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub, private=True, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read(HubSource("ada/model"), "model.safetensors", 5, 500) == BIG[5:500]
    assert {one.headers.get("authorization") for one in hub.requests} == {f"Bearer {TOKEN}"}
    assert hub.cdn.requests
    assert not any(TOKEN in str(one) for one in hub.cdn.requests)


@pytest.mark.parametrize(
    ("path", "gated", "private", "told"),
    [
        ("config.json", True, False, "licence"),
        ("config.json", False, True, "HF_TOKEN"),
        ("none.json", False, False, "no such file or folder"),
    ],
)
def test_a_container_without_rights(hub: Hub, path: str, gated: bool, private: bool, told: str) -> None:
    commit = add(hub, gated=gated, private=private, token=TOKEN)
    with pytest.raises(LoadError) as caught:
        read(HubSource("ada/model", commit), path, size=2)
    assert not isinstance(caught.value, TransferError)
    assert told in problem(caught)


def test_a_token_that_nobody_knows(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(LoadError) as caught:
        HubSource("ada/model").inventory()
    assert "does not accept the token; set HF_TOKEN, or log in with `hf auth login`" in problem(caught)
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    assert len(HubSource("ada/model").inventory()) == 4


LOGGED_IN = {
    "HF_TOKEN": "",
    "HF_TOKEN_PATH": "",
    "HF_HOME": "",
    "HUGGING_FACE_HUB_TOKEN": "",
    "XDG_CACHE_HOME": "",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "",
}


@pytest.mark.parametrize(
    ("chosen", "token"),
    [
        ({}, "cache"),
        ({"XDG_CACHE_HOME": "{home}/xdg"}, "xdg"),
        ({"HF_HOME": "$HOME/hf", "XDG_CACHE_HOME": "{home}/xdg"}, "hf"),
        ({"HF_TOKEN_PATH": "~/secrets/hub", "HF_HOME": "$HOME/hf"}, "path"),
        ({"HF_TOKEN": " environment\n", "HF_TOKEN_PATH": "~/secrets/hub"}, "environment"),
        ({"HUGGING_FACE_HUB_TOKEN": "older", "HF_TOKEN_PATH": "~/secrets/hub"}, "older"),
        ({"HF_TOKEN": "newer", "HUGGING_FACE_HUB_TOKEN": "older"}, "newer"),
        ({"HF_TOKEN": " ", "HUGGING_FACE_HUB_TOKEN": "older"}, "cache"),
        ({"HF_TOKEN": "environment", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "true"}, None),
        ({"HF_TOKEN_PATH": "~/nothing", "HF_HOME": "$HOME/hf"}, None),
    ],
)
def test_the_token_is_the_one_that_the_library_would_take(
    tmp_path: Path, chosen: dict[str, str], token: str | None
) -> None:
    places = {".cache/huggingface": "cache", "xdg/huggingface": "xdg", "hf": "hf", "secrets": "path"}
    for folder, text in places.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / ("hub" if text == "path" else "token")).write_text(f"{text}\n")
    environ = {name: value for name, value in os.environ.items() if name not in LOGGED_IN} | {"HOME": str(tmp_path)}
    environ |= {name: value.format(home=tmp_path) for name, value in chosen.items()}
    code = (
        "from huggingface_hub.utils import build_hf_headers\n"
        "from packager.weights.hub import HubSource\n"
        "place = HubSource('ada/model')._locate('x')\n"
        "ours, theirs = place.headers.get('Authorization'), build_hf_headers().get('authorization')\n"
        f"assert ours == theirs == {token and f'Bearer {token}'!r}, (ours, theirs)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("text", ["two words", "new\nline", "grün", "\x01"])
def test_what_is_no_token_is_not_shown(hub: Hub, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF_TOKEN", text)
    with pytest.raises(LoadError) as caught:
        read(HubSource("ada/model"), "config.json")
    assert problem(caught) == "HF_TOKEN: this is no token of a hub; set HF_TOKEN, or log in with `hf auth login`"


def test_a_token_that_cannot_be_read(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path))
    with pytest.raises(LoadError, match="cannot be read"):
        HubSource("ada/model").inventory()


# What goes wrong.


def test_what_is_not_there(hub: Hub) -> None:
    add(hub)
    for address, revision, told in (
        ("ada/none", "", "no such repository, or it is private"),
        ("ada/model", "v9", "no such revision"),
        ("ada/model/other", "", "no such file or folder"),
        ("ada/model/config.json", "", "no such file or folder"),
    ):
        source = HubSource(address, revision)
        with pytest.raises(LoadError) as caught:
            source.inventory()
        assert told in problem(caught)
        assert source.revision == revision


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (
            Status(429, {"Retry-After": "7"}),
            TransferError,
            "429 Too Many Requests, and asks for 7 seconds of rest; try again later",
        ),
        (Status(503), TransferError, "503 Service Unavailable; try again"),
        (Status(418), LoadError, "answers 418"),
        (Status(403, {"X-Error-Message": "Access to this resource is disabled."}), LoadError, "has disabled"),
        (Status(200, body=b"<html>"), LoadError, "does not answer as a hub does"),
        (Status(200, body=b"[]"), LoadError, "does not answer as a hub does"),
        (Status(200, body=b"{}"), LoadError, "does not answer as a hub does"),
        (Status(200, body=b'{"id": "ada/model"}'), LoadError, "'None' is no commit; correct HF_ENDPOINT"),
        (Status(200, body=b'{"id": "ada/model", "sha": "../../main"}'), LoadError, "is no commit"),
    ],
)
def test_other_answers(hub: Hub, answer: Status, kind: type[LoadError], told: str) -> None:
    add(hub)
    hub.faults = lambda _: answer
    with pytest.raises(LoadError) as caught:
        HubSource("ada/model").inventory()
    assert type(caught.value) is kind
    assert told in problem(caught)
    if isinstance(caught.value, TransferError):
        assert (caught.value.busy, caught.value.retry_after) == (True, 7.0 if answer.code == 429 else None)


@pytest.mark.parametrize(
    "row",
    [
        b'{"type": "file", "path": "a", "size": -1, "oid": "x"}',
        b'{"type": "file", "path": "a", "size": "1", "oid": "x"}',
        b'{"type": "file", "path": "a", "size": 1, "oid": "x", "lfs": {"oid": "../../a", "size": 1, "pointerSize": 1}}',
        b'{"type": "file", "size": 1, "oid": "x"}',
    ],
)
def test_listings_that_are_none(hub: Hub, row: bytes) -> None:
    add(hub)
    hub.faults = lambda request: Status(200, body=b"[%s]" % row) if "/tree/" in request.path else None
    with pytest.raises(LoadError, match="does not answer as a hub does"):
        HubSource("ada/model").inventory()


def test_a_listing_that_leaves_the_folder(hub: Hub) -> None:
    add(hub)
    row = b'[{"type": "file", "path": "config.json", "size": 2, "oid": "x"}]'
    hub.faults = lambda request: Status(200, body=row) if "/tree/" in request.path else None
    with pytest.raises(LoadError, match="as a hub does: it lists 'config"):
        HubSource("ada/model/sub").inventory()


def test_a_hub_that_is_not_there(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}/")
    with pytest.raises(TransferError) as caught:
        HubSource("ada/model").inventory()
    assert "cannot be reached" in problem(caught)
    assert "HF_ENDPOINT" in problem(caught)
    assert "PACKAGER_OFFLINE" in problem(caught)


def test_a_library_that_may_not_ask(hub: Hub, tmp_path: Path) -> None:
    add(hub)
    code = (
        "from packager.errors import LoadError\n"
        "from packager.weights.hub import HubSource\n"
        "try: HubSource('ada/model').inventory()\n"
        "except LoadError as error: print(error.problems[0].what)\n"
    )
    assert client(hub, tmp_path, code, HF_HUB_OFFLINE="1") == "HF_HUB_OFFLINE forbids to ask the hub\n"
    assert hub.requests == []


def test_a_hub_behind_a_path(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/mirrors/hub/")
    with pytest.raises(LoadError):
        HubSource("ada/model").inventory()
    assert hub.requests[0].path == "/mirrors/hub/api/models/ada/model"


@pytest.mark.parametrize(
    "text", ["hub", "ftp://hub", "http://", "http://ada:pass@hub", "https://hub?x=1", "http://[hub"]
)
def test_endpoints_that_are_none(hub: Hub, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    for act in (HubSource("ada/model").inventory, lambda: read(HubSource("ada/model"), "config.json")):
        with pytest.raises(LoadError) as caught:
            act()
        assert "HF_ENDPOINT: HF_ENDPOINT is no hub's address" in problem(caught)
        assert "pass@" not in problem(caught)


def test_an_expired_address_is_asked_for_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    add(hub, private=True, token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with closing(HubSource("ada/model").connect()) as reader:
        first = b"".join(reader.read("model.safetensors", 0, 100, len(BIG)))
        asked = len(hub.requests)
        hub.expire()
        rest = b"".join(reader.read("model.safetensors", 100, len(BIG), len(BIG)))
    assert first + rest == BIG
    assert len(hub.requests) > asked


def test_reading_needs_no_library(hub: Hub) -> None:
    commit = add(hub)
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('huggingface_hub', 'hf_xet', 'httpx', 'httpx2', 'requests'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from packager.weights.schemes import open_source\n"
        "from packager.weights.source import SourceFile, read_file\n"
        f"source = open_source('hf://ada/model', revision={commit!r})\n"
        f"sys.stdout.buffer.write(read_file(source, SourceFile('model.safetensors', {len(BIG)})))\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (finished.stdout, finished.returncode) == (BIG, 0), finished.stderr.decode()


# The fake itself: the real client takes it for a hub.


def client(hub: Hub, folder: Path, code: str, **more: str) -> str:
    """What `code` prints in a process whose huggingface_hub was imported with this hub as its endpoint."""
    environ = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "0",  # engines' adapters, which other tests import, forbid it to their own process
        **more,
    }
    finished = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_the_real_client_downloads(hub: Hub, tmp_path: Path) -> None:
    add(hub)
    hub.page = 2
    folder = client(hub, tmp_path, "import huggingface_hub as hf; print(hf.snapshot_download('ada/model'))").strip()
    assert {path: (Path(folder) / path).read_bytes() for path in FILES} == FILES


@pytest.mark.parametrize("part", [None, 1000])
def test_the_real_client_uploads(hub: Hub, tmp_path: Path, part: int | None) -> None:
    hub.part = part
    hub.tokens.add(TOKEN)
    for path, data in FILES.items():
        (tmp_path / "model" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / path).write_bytes(data)
    code = (
        f"from huggingface_hub import HfApi; api = HfApi(token={TOKEN!r})\n"
        "api.create_repo('ada/new', private=True, exist_ok=True)\n"
        f"print(api.upload_folder(repo_id='ada/new', folder_path={str(tmp_path / 'model')!r}).oid)\n"
    )
    commit = client(hub, tmp_path, code).strip()
    entries = hub.repos["ada/new"].commits[commit]
    assert {path: entry.data for path, entry in entries.items() if path in FILES} == FILES
    assert {path for path, entry in entries.items() if entry.lfs} == {"model.safetensors", "sub/w.safetensors"}
    assert client(hub, tmp_path, code).strip() == commit  # nothing has changed
    parts = [one for one in hub.requests if one.method == "PUT" and one.path.count("/") == 3]
    assert len(parts) == (0 if part is None else 11)
