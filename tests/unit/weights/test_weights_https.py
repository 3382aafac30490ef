"""`https://`: one file, or a folder by its list of checksums; no secret in an address. Over real sockets, loopback."""

import base64
import contextlib

import pytest
from fakes.web import IgnoreRange, Redirect, Request, Status, Web

from packager.digest import sha256_hex
from packager.errors import LoadError, TransferError
from packager.weights.https import HttpsSource
from packager.weights.schemes import open_source
from packager.weights.source import SourceFile, read_file

FILES = {"model.gguf": b"GGUF" * 1000, "sub/tokenizer.json": b"{}", "a b%25#?ü.txt": b"odd", "empty": b""}


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch, tmp_path):
    """No proxies, no logins."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "NETRC"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def web():
    served = {f"models/one/{name}": data for name, data in FILES.items()}
    with Web({**served, "models/one/SHA256SUMS": listing()}) as web:
        yield web


def listing(mark: str = " ", end: str = "\n") -> bytes:
    return "".join(f"{sha256_hex(data)} {mark}{name}{end}" for name, data in FILES.items()).encode()


def refusal(call, match: str, kind: type[LoadError] = LoadError) -> str:
    """How the error is mended."""
    with pytest.raises(kind, match=match) as caught:
        call()
    assert type(caught.value) is kind
    return caught.value.problems[0].mend


class TestOneFile:
    def test_listed_and_read(self, web):
        source = open_source(f"{web.url}/models/one/model.gguf")
        assert isinstance(source, HttpsSource)
        assert (source.uri, source.revision) == (f"{web.url}/models/one/model.gguf", "")
        (file,) = source.inventory()
        assert file == SourceFile("model.gguf", 4000)
        assert read_file(source, file) == FILES["model.gguf"]
        with contextlib.closing(source.connect()) as reader:
            assert b"".join(reader.read("model.gguf", 5, 9, 4000)) == FILES["model.gguf"][5:9]

    def test_where_head_is_refused(self, web):
        web.faults = lambda request: Status(405) if request.method == "HEAD" else None
        assert open_source(f"{web.url}/models/one/model.gguf").inventory() == (SourceFile("model.gguf", 4000),)
        assert web.requests[-1].headers["range"] == "bytes=0-0"

    def test_a_name_that_is_escaped(self, web):
        source = open_source(f"{web.url}/models/one/a%20b%2525%23%3F%C3%BC.txt")
        (file,) = source.inventory()
        assert file == SourceFile("a b%25#?ü.txt", 3)
        assert read_file(source, file) == b"odd"

    def test_a_query_that_is_no_secret_is_kept(self, web):
        source = open_source(f"{web.url}/models/one/model.gguf?download=true&v=2")
        (file,) = source.inventory()
        assert read_file(source, file) == FILES["model.gguf"]
        assert {request.path for request in web.requests} == {"/models/one/model.gguf?download=true&v=2"}

    def test_a_stable_address_that_redirects_to_a_signed_one(self, web):
        signed = f"{web.url}/models/one/model.gguf?X-Amz-Signature=x"
        web.faults = lambda request: Redirect(signed) if request.path == "/get/it" else None
        source = open_source(f"{web.url}/get/it")
        (file,) = source.inventory()
        assert file == SourceFile("it", 4000)
        assert read_file(source, file) == FILES["model.gguf"]

    def test_not_there(self, web):
        refusal(open_source(f"{web.url}/models/none.gguf").inventory, "answers 404")

    def test_a_place_without_ranges(self, web):
        web.faults = lambda _: IgnoreRange()
        source = open_source(f"{web.url}/models/one/model.gguf")
        (file,) = source.inventory()
        assert read_file(source, file) == FILES["model.gguf"]


class TestFolder:
    @pytest.mark.parametrize(("mark", "end"), [(" ", "\n"), ("*", "\n"), (" ", "\r\n"), (" ./", "\n"), ("*./", "\n")])
    def test_as_sha256sum_writes_it(self, web, mark, end):
        mark, names = (mark, "") if len(mark) == 1 else (mark[0], mark[1:])
        web.files["models/one/SHA256SUMS"] = "".join(
            f"{sha256_hex(data)} {mark}{names}{name}{end}" for name, data in FILES.items()
        ).encode()
        source = open_source(f"{web.url}/models/one/")
        found = source.inventory()
        assert found == tuple(SourceFile(name, len(FILES[name]), sha256_hex(FILES[name])) for name in sorted(FILES))
        assert {file.path: read_file(source, file) for file in found} == FILES

    def test_more_files_than_are_asked_at_a_time(self, web):
        many = {f"{number:03}": bytes(number) for number in range(50)}
        web.files = {f"m/{name}": data for name, data in many.items()}
        web.files["m/SHA256SUMS"] = "\n".join(f"{sha256_hex(data)}  {name}" for name, data in many.items()).encode()
        found = open_source(f"{web.url}/m/").inventory()
        assert found == tuple(SourceFile(name, len(data), sha256_hex(data)) for name, data in many.items())
        assert len({request.connection for request in web.requests}) <= 9

    def test_the_list_is_none_of_its_files(self, web):
        web.files["models/one/SHA256SUMS"] = listing() + f"{'0' * 64}  SHA256SUMS\n".encode()
        assert len(open_source(f"{web.url}/models/one/").inventory()) == len(FILES)

    def test_what_people_keep_out_of_sight_is_left_out(self, web):
        """As in every scheme: `find . -type f -exec sha256sum` lists it too."""
        hidden = (".gitattributes", ".cache/huggingface/x.metadata", "sub/.also")
        web.files["models/one/SHA256SUMS"] += "".join(f"{'a' * 64}  ./{name}\n" for name in hidden).encode()
        assert [file.path for file in open_source(f"{web.url}/models/one/").inventory()] == sorted(FILES)

    def test_a_query_goes_with_every_file(self, web):
        open_source(f"{web.url}/models/one/?v=2").inventory()
        assert {request.path.partition("?")[2] for request in web.requests} == {"v=2"}
        assert {request.path.partition("?")[0] for request in web.requests} >= {"/models/one/SHA256SUMS"}

    @pytest.mark.parametrize("code", [404, 403])
    def test_without_a_list(self, web, code):
        web.faults = lambda _: Status(code)
        mend = refusal(open_source(f"{web.url}/models/two/").inventory, "cannot be listed by its SHA256SUMS")
        assert "`sha256sum * > SHA256SUMS`" in mend

    def test_a_list_that_cannot_be_had_now(self, web):
        web.faults = lambda _: Status(503)
        refusal(open_source(f"{web.url}/models/one/").inventory, "answers 503", TransferError)

    @pytest.mark.parametrize(
        "line",
        [
            "hello",
            f"{'0' * 63}  model.gguf",
            f"{'0' * 64} model.gguf",
            f"\\{'0' * 64}  a\\nb",
            f"SHA256 (model.gguf) = {'0' * 64}",
            f"{'0' * 64}  ../escape",
            f"{'0' * 64}  /etc/passwd",
            f"{'0' * 64}  a//b",
            f"{'0' * 64}  ./",
            "",
        ],
    )
    def test_a_line_that_is_none(self, web, line):
        web.files["models/one/SHA256SUMS"] = listing() + line.encode() + b"\n"
        source = open_source(f"{web.url}/models/one/")
        refusal(source.inventory, f"/models/one/SHA256SUMS:{len(FILES) + 1}: this is no checksum")
        assert [request.path for request in web.requests] == ["/models/one/SHA256SUMS"]

    def test_two_checksums_of_one_file(self, web):
        web.files["models/one/SHA256SUMS"] = listing() + f"{'0' * 64}  model.gguf\n".encode()
        refusal(open_source(f"{web.url}/models/one/").inventory, "'model.gguf' has another checksum above")

    @pytest.mark.parametrize(("data", "match"), [(b"\n", "no checksum"), (b"", "no checksum"), (b"\xff\n", "UTF-8")])
    def test_no_list_at_all(self, web, data, match):
        web.files["models/one/SHA256SUMS"] = data
        refusal(open_source(f"{web.url}/models/one/").inventory, match)

    def test_a_list_of_itself_alone(self, web):
        web.files["models/one/SHA256SUMS"] = f"{'0' * 64}  SHA256SUMS\n".encode()
        refusal(open_source(f"{web.url}/models/one/").inventory, "lists no file")

    def test_a_listed_file_that_is_missing(self, web):
        del web.files["models/one/model.gguf"]
        refusal(open_source(f"{web.url}/models/one/").inventory, r"model\.gguf: the place answers 404")

    def test_read_below_an_address_without_a_slash(self, web):
        """As a mirror has it that stands in for another scheme's folder."""
        with contextlib.closing(open_source(f"{web.url}/models/one").connect()) as reader:
            assert b"".join(reader.read("sub/tokenizer.json", 0, 2, 2)) == b"{}"


class TestAddress:
    @pytest.mark.parametrize("host", ["example.com", "10.0.0.5", "192.168.1.1", "localhost.example.com", "0.0.0.0"])
    def test_plain_http_is_for_this_machine(self, host):
        mend = refusal(lambda: open_source(f"http://{host}/m/model.gguf"), "plain http is for this machine alone")
        assert f"https://{host}/m/model.gguf" in mend

    @pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "[::1]:8080", "127.9.9.9"])
    def test_which_is_taken(self, host):
        assert open_source(f"http://{host}/m/model.gguf").uri == f"http://{host}/m/model.gguf"

    @pytest.mark.parametrize(
        "query", ["X-Amz-Signature=hunter2", "x-goog-signature=hunter2", "a=1&sig=hunter2", "Signature=hunter2", "token=", "TOKEN=hunter2"]
    )  # fmt: skip
    def test_a_signed_address(self, query):
        with pytest.raises(LoadError, match="it is a secret, and it expires") as caught:
            open_source(f"https://example.com/m/model.gguf?{query}")
        assert "hunter2" not in f"{caught.value.problems}"
        assert "stable address" in caught.value.problems[0].mend

    def test_a_password(self):
        with pytest.raises(LoadError, match="a user or password stands in the address") as caught:
            open_source("https://ada:hunter2@example.com/m/model.gguf")
        assert "hunter2" not in f"{caught.value.problems}"
        assert "~/.netrc" in caught.value.problems[0].mend

    @pytest.mark.parametrize(
        ("address", "match"),
        [
            ("https://example.com/m/model.gguf#main", "fragment"),
            ("https://example.com", "names no file"),
            ("https://example.com/m/..", "names no file"),
            ("https://example.com/m/a%2Fb", "names no file"),
            ("https:///model.gguf", "no http or https address"),
            ("https://example.com:port/x", "no http or https address"),
        ],
    )
    def test_others_that_are_none(self, address, match):
        refusal(lambda: open_source(address), match)


class TestLogins:
    def login(self, request: Request) -> str:
        return base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()

    @pytest.fixture
    def source(self, web):
        return open_source(f"{web.url}/models/one/model.gguf")

    def test_none(self, web, source):
        source.inventory()
        assert "authorization" not in web.requests[0].headers

    def test_from_the_home_folder(self, web, source, tmp_path):
        (tmp_path / ".netrc").write_text(
            "machine example.com login x password y\nmachine 127.0.0.1 login ada password s3:t\n"
        )
        source.inventory()
        assert self.login(web.requests[0]) == "ada:s3:t"

    def test_for_any_host(self, web, source, tmp_path):
        (tmp_path / ".netrc").write_text("default login ada password s\n")
        source.inventory()
        assert self.login(web.requests[0]) == "ada:s"

    def test_for_another_host(self, web, source, tmp_path):
        (tmp_path / ".netrc").write_text("machine example.com login x password y\n")
        source.inventory()
        assert "authorization" not in web.requests[0].headers

    def test_from_another_file(self, web, source, tmp_path, monkeypatch):
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login wrong password y\n")
        (tmp_path / "logins").write_text("machine 127.0.0.1 login ada password s\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "logins"))
        assert read_file(source, SourceFile("model.gguf", 4000)) == FILES["model.gguf"]
        assert self.login(web.requests[0]) == "ada:s"

    def test_they_stay_with_their_host(self, web, tmp_path):
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login ada password s\n")
        web.faults = lambda request: (
            Redirect(f"http://localhost:{web.port}/models/one/model.gguf") if request.path == "/get/it" else None
        )
        open_source(f"{web.url}/get/it").inventory()
        assert [self.login(request) for request in web.requests] == ["ada:s", ""]

    def test_a_file_that_is_not_there(self, source, tmp_path, monkeypatch):
        monkeypatch.setenv("NETRC", str(tmp_path / "none"))
        refusal(source.inventory, "credentials cannot be read: No such file")

    @pytest.mark.parametrize("text", [b"machine 127.0.0.1 login ada password correct hunter2\n", b"hunter2\n"])
    def test_a_file_that_is_damaged_is_not_shown(self, source, tmp_path, text):
        (tmp_path / ".netrc").write_bytes(text)
        with pytest.raises(LoadError, match="credentials cannot be read") as caught:
            source.inventory()
        assert "hunter2" not in f"{caught.value.problems}{caught.value.__cause__}"
        assert caught.value.problems[0].where.startswith(str(tmp_path / ".netrc"))
