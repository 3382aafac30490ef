"""A tokenizer from elsewhere: what of its source is locked, and what is refused; the exact words are in tests/projects."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.compiled import describe_engine, write_engine
from fakes.locks import make_lock

from packager.digest import sha256_hex
from packager.errors import FetchError, IntegrityError, LoadError, SpecError
from packager.lock.drift import drifted
from packager.lock.sources import check_sources, fetch_sources
from packager.lock.tokenizer import TOKENIZER_FILES
from packager.lock.weights import lock_adapters, lock_weights
from packager.spec.load import SpecFile, load_spec

WEIGHTS = {"config.json": b"{}", "model.safetensors": b"S" * 10}
TOKENIZER = {
    "tokenizer.json": b"[]",
    "tokenizer_config.json": b'{"eos_token": "</s>"}',
    "chat_template.jinja": b"{{ x }}",
}
MODEL = {**WEIGHTS, **TOKENIZER, "README.md": b"x", "pytorch_model.bin": b"\x80", "sub/tokenizer.json": b"{}"}
"""The repository of a whole model, of which the tokenizer alone is wanted."""
NAME_IT = "name the repository of the model that the weights were made of, or a folder with its tokenizer"
CODE = b"class Tokenizer: ...\n"
HUB = "  source: file://weights\n  tokenizer: hf://ada/model\n"


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def spec(folder: Path, weights: str = HUB, engine: str = "vllm", more: str = "") -> SpecFile:
    (folder / "packager.yaml").write_text(f"name: hello\nengine: {{kind: {engine}}}\nweights:\n{weights}{more}")
    return load_spec(folder)


@pytest.fixture
def weights(tmp_path):
    write(tmp_path / "weights", WEIGHTS)
    return tmp_path / "weights"


@pytest.fixture
def repository(hub):
    """The commit of hf://ada/model."""
    return hub.add_repo("ada/model", MODEL, lfs=("*.safetensors", "*.bin"))


def paths(lock) -> list[str]:
    return [one.path for one in lock.files]


def refused(file, tools) -> list[tuple[str, str, str]]:
    with pytest.raises(SpecError) as caught:
        lock_weights(file, tools)
    return [(one.where.partition("packager.yaml")[2], one.what, one.mend) for one in caught.value.problems]


@pytest.mark.parametrize("ship", ["in_image", "on_load"])
def test_its_files_are_taken_and_nothing_else_is_read(tmp_path, tools, hub, repository, ship):
    hub.add_repo("ada/bare", WEIGHTS)
    bare = HUB.replace("file://weights", "hf://ada/bare")
    locked, tokenizer = lock_weights(spec(tmp_path, f"{bare}  ship: {ship}\n"), tools)
    assert paths(locked) == sorted(WEIGHTS)
    assert (tokenizer.source, tokenizer.revision) == ("hf://ada/model", repository)
    assert {one.path: one.sha256 for one in tokenizer.files} == {
        name: sha256_hex(data) for name, data in TOKENIZER.items()
    }
    read = {one.path.rpartition("/")[2] for one in hub.requests if "/ada/model/resolve/" in one.path}
    assert read == {*TOKENIZER}
    assert hub.cdn.requests == []


def test_the_whole_list(tmp_path, tools, weights):
    write(tmp_path / "other", dict.fromkeys([*TOKENIZER_FILES, "vocab.txt", "tokenizer.model.v3"], b"{}"))
    _, tokenizer = lock_weights(spec(tmp_path, HUB.replace("hf://ada/model", "file://other")), tools)
    assert paths(tokenizer) == sorted(TOKENIZER_FILES)
    assert all(tools.store.find(one.sha256, one.size) for one in tokenizer.files)


def test_of_the_web_it_may_be_one_file(tmp_path, tools, weights):
    write(tmp_path / "other", TOKENIZER)
    _, tokenizer = lock_weights(spec(tmp_path, HUB.replace("hf://ada/model", "file://other/tokenizer.json")), tools)
    assert paths(tokenizer) == ["tokenizer.json"]


@pytest.mark.parametrize("own", [True, False])
def test_which_tokens_end_an_answer_is_the_weights_own_word(tmp_path, tools, weights, own):
    write(tmp_path / "other", TOKENIZER | {"generation_config.json": b'{"eos_token_id": 2}'})
    if own:
        write(weights, {"generation_config.json": b'{"eos_token_id": 3}'})
    locked, tokenizer = lock_weights(spec(tmp_path, HUB.replace("hf://ada/model", "file://other")), tools)
    assert ("generation_config.json" in paths(locked), "generation_config.json" in paths(tokenizer)) == (own, not own)


def test_a_revision_is_pinned_to_its_commit(tmp_path, tools, hub, weights, repository):
    branch = hub.commit("ada/model", {"tokenizer.json": b"[1]"}, branch="next")
    _, newest = lock_weights(spec(tmp_path), tools)
    _, other = lock_weights(spec(tmp_path, f"{HUB}  tokenizer_revision: next\n"), tools)
    assert (newest.revision, other.revision) == (repository, branch)
    assert sha256_hex(b"[1]") in {one.sha256 for one in other.files}


def test_the_engine_finds_it_among_the_weights(tmp_path, tools, repository):
    """Engines that ask for tokenizer.json are content with either source's."""
    write(tmp_path / "weights", {"config.json": b"{}", "model.bin": b"\x06\0\0\0"})
    file = spec(tmp_path, "  source: file://weights\n", "ctranslate2")
    ((_, what, mend),) = refused(file, tools)
    assert what.endswith("these weights have no tokenizer.json")
    assert mend == "name a source that has it in `weights.tokenizer`"
    assert lock_weights(spec(tmp_path, HUB, "ctranslate2"), tools)[1] is not None


def test_one_that_has_not_what_the_engine_reads(tmp_path, tools):
    write(tmp_path / "weights", {"config.json": b"{}", "model.bin": b"\x06\0\0\0"})
    write(tmp_path / "other", {"tokenizer.model": b"spm"})
    file = spec(tmp_path, HUB.replace("hf://ada/model", "file://other"), "ctranslate2")
    ((_, what, _),) = refused(file, tools)
    assert what.endswith("weights and tokenizer have no tokenizer.json")


@pytest.mark.parametrize(
    ("there", "said", "mend"),
    [
        ({"README.md": b"", "vocab.txt": b""}, "there is README.md, vocab.txt", NAME_IT),
        ({"sub/tokenizer.json": b"{}"}, "there is sub/tokenizer.json", "name the folder within: sub"),
        (
            {"tokenizer_config.json": b"{}", "qwen.tiktoken": b""},
            "there is qwen.tiktoken, tokenizer_config.json",
            NAME_IT,
        ),
        (dict.fromkeys("abcdefg", b""), "there is a, b, c, d, e and 2 more", NAME_IT),
    ],
)
def test_a_source_without_a_tokenizer(tmp_path, tools, weights, there, said, mend):
    write(tmp_path / "other", there)
    file = spec(tmp_path, HUB.replace("hf://ada/model", "file://other"))
    ((where, what, told),) = refused(file, tools)
    assert (where, what.rpartition("; ")[2], told) == (":5:14", said, mend)
    assert what.startswith("there is no tokenizer: none of tokenizer.json, tokenizer.model, tekken.json, vocab.json; ")


@pytest.mark.parametrize(
    ("own", "code"), [({"tokenizer.json": b"[]"}, {}), ({"x.tiktoken": b""}, {"tokenization_x.py": CODE})]
)
def test_its_vocabulary_may_be_the_weights_own_or_known_to_its_code_alone(tmp_path, tools, weights, own, code):
    write(weights, own)
    write(tmp_path / "other", {"tokenizer_config.json": b"{}", **code})
    trusted = "".join(f"  trusted_code: {{{name}: {sha256_hex(data)}}}\n" for name, data in code.items())
    file = spec(tmp_path, HUB.replace("hf://ada/model", "file://other"), "transformers", trusted)
    _, tokenizer = lock_weights(file, tools)
    assert paths(tokenizer) == sorted(["tokenizer_config.json", *code])


def test_what_both_have_is_refused(tmp_path, tools, weights, repository):
    write(weights, {"tokenizer.json": b"[]", "tokenizer_config.json": b"{}"})
    ((where, what, mend),) = refused(spec(tmp_path), tools)
    assert (where, what) == (":5:14", "the weights have tokenizer.json and tokenizer_config.json of their own")
    assert mend == "remove `weights.tokenizer`, or leave theirs out with `weights.include`"
    included = f"{HUB}  include: [config.json, '*.safetensors']\n"
    assert paths(lock_weights(spec(tmp_path, included), tools)[1]) == sorted(TOKENIZER)


def test_names_that_differ_in_case_alone(tmp_path, tools, weights, repository):
    write(weights, {"Tokenizer.json": b"[]"})
    ((where, what, _),) = refused(spec(tmp_path), tools)
    assert (where, what) == (
        ":5:14",
        "the weights list 'Tokenizer.json' and 'tokenizer.json': they differ in case or Unicode form alone",
    )


def test_links_are_refused(tmp_path, tools, weights):
    write(tmp_path / "other", TOKENIZER)
    (tmp_path / "other/merges.txt").symlink_to("tokenizer.json")
    with pytest.raises(LoadError, match="a link stands among the weights") as caught:
        lock_weights(spec(tmp_path, HUB.replace("hf://ada/model", "file://other")), tools)
    assert caught.value.problems[0].where.endswith("packager.yaml:5:14")


class TestCode:
    """A tokenizer may need code of its own: it is vouched for as code of the weights is, and taken along."""

    CONFIG = json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_x.Tokenizer", None]}}).encode()

    def spec(self, folder, trusted):
        write(folder / "other", TOKENIZER | {"tokenizer_config.json": self.CONFIG, "tokenization_x.py": CODE})
        weights = HUB.replace("hf://ada/model", "file://other")
        return spec(folder, weights, "transformers", f"  trusted_code: {trusted}\n" if trusted else "")

    def test_that_nobody_vouched_for(self, tmp_path, tools, weights):
        ((where, what, _),) = refused(self.spec(tmp_path, ""), tools)
        assert (where, what) == (":5:14", "tokenizer_config.json names code to run: tokenization_x.py")

    def test_that_is_vouched_for(self, tmp_path, tools, weights):
        _, tokenizer = lock_weights(self.spec(tmp_path, f"{{tokenization_x.py: {sha256_hex(CODE)}}}"), tools)
        assert "tokenization_x.py" in paths(tokenizer)

    def test_that_is_another_file(self, tmp_path, tools, weights):
        ((_, what, mend),) = refused(self.spec(tmp_path, f"{{tokenization_x.py: {'ab' * 32}}}"), tools)
        assert what == "tokenization_x.py is not the file that was vouched for: it has another sha256"
        assert sha256_hex(CODE) in mend

    def test_code_of_the_weights_is_the_weights_own(self, tmp_path, tools, weights):
        write(weights, {"modeling_x.py": CODE})
        write(tmp_path / "other", {"modeling_x.py": b"other"})
        both = f"{{modeling_x.py: {sha256_hex(CODE)}, tokenization_x.py: {sha256_hex(CODE)}}}"
        locked, tokenizer = lock_weights(self.spec(tmp_path, both), tools)
        assert "modeling_x.py" in paths(locked)
        assert "modeling_x.py" not in paths(tokenizer)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], ["no file of these weights looks like a tokenizer: `weights.tokenizer` names one from elsewhere"]),
        (["tokenizer_config.json", "sub/tokenizer.json"], ["no file of these weights looks like a tokenizer"]),
        (["tokenizer.json"], []),
        (["vocab.txt"], []),
        (["spiece.model"], []),
        (["qwen.tiktoken"], []),
        (["tekken.json"], []),
    ],
)
def test_weights_without_one_are_told_of(tmp_path, tools, files, said):
    heard = []
    write(tmp_path / "weights", {**WEIGHTS, **dict.fromkeys(files, b"{}")})
    lock_weights(spec(tmp_path, "  source: file://weights\n"), replace(tools, say=heard.append))
    assert [one.startswith(other) for one, other in zip(heard, said, strict=True)] == [True] * len(said)


def test_an_engine_that_opens_one_file_has_no_use_for_it(tmp_path, tools):
    write(tmp_path / "weights", {"a.gguf": b"GGUF"})
    assert refused(spec(tmp_path, HUB, "llama_cpp"), tools) == [
        (":5:14", "the engine llama_cpp opens one file, which has its own tokenizer", "remove `weights.tokenizer`")
    ]


class TestCompiledEngines:
    """An engine.json may say which tokenizer the compiled model had."""

    SPEC = (
        "name: hello\nengine: {kind: tensorrt_llm_engine}\nhardware: {gpu: a100-40gb}\nserving: {max_concurrency: 16}\n"
        "image: {base: {kind: layout, path: base.oci}}\nweights:\n  source: file://weights\n  tokenizer: file://other\n"
    )

    def spec(self, folder: Path, tokenizer_sha256: str | None, **other: bytes) -> SpecFile:
        engine = write_engine(folder / "weights")
        (engine / "tokenizer.json").unlink()
        describe_engine(engine, tokenizer_sha256=tokenizer_sha256)
        write(folder / "other", TOKENIZER | other)
        (folder / "packager.yaml").write_text(self.SPEC)
        return load_spec(folder)

    @pytest.mark.parametrize("said", [sha256_hex(TOKENIZER["tokenizer.json"]), None])
    def test_that_one_or_any(self, tmp_path, tools, said):
        locked, tokenizer = lock_weights(self.spec(tmp_path, said), tools)
        assert locked.compiled["tokenizer_sha256"] == said
        assert paths(locked) == ["config.json", "engine.json", "rank0.engine"]
        assert paths(tokenizer) == sorted(TOKENIZER)

    def test_sentencepieces_own_file_may_be_the_one_that_is_meant(self, tmp_path, tools):
        file = self.spec(tmp_path, sha256_hex(b"spm"), **{"tokenizer.model": b"spm"})
        assert lock_weights(file, tools)[1] is not None

    def test_another_one(self, tmp_path, tools):
        ((where, what, mend),) = refused(self.spec(tmp_path, "b" * 64), tools)
        found = sha256_hex(TOKENIZER["tokenizer.json"])[:12]
        assert where == ":8:14"
        assert what == (f"tokenizer.json has the sha256 {found}, and engine.json says that the engine's has {'b' * 12}")
        assert f"mistralai/Mistral-7B-Instruct-v0.2 at {'a' * 40}" in mend


class TestLocked:
    """What becomes of a lock that has one."""

    def locked(self, tmp_path, tools, weights=HUB):
        file = spec(tmp_path, weights)
        locked, tokenizer = lock_weights(file, tools)
        adapters = lock_adapters(file, tools)
        return file, make_lock(file.spec, weights=locked, tokenizer=tokenizer, adapters=adapters)

    def test_what_ships_is_brought_into_the_store(self, tmp_path, tools, hub, weights, repository):
        file, lock = self.locked(tmp_path, tools)
        (one,) = [one for one in lock.tokenizer.files if one.path == "tokenizer.json"]
        tools.store.path(one.sha256).unlink()
        check_sources(lock, file, tools)
        fetch_sources(lock, file, tools)
        assert tools.store.find(one.sha256, one.size)

    def test_offline_it_is_named(self, tmp_path, tools, hub, weights, repository):
        file, lock = self.locked(tmp_path, tools)
        tools.store.path(lock.tokenizer.files[0].sha256).unlink()
        with pytest.raises(
            FetchError, match=r"offline, and the store lacks weights .*: chat_template\.jinja"
        ) as caught:
            fetch_sources(lock, file, replace(tools, offline=True))
        assert caught.value.problems[0].where.endswith("packager.yaml:5:14")

    def test_a_local_one_that_changed(self, tmp_path, tools, weights):
        write(tmp_path / "other", TOKENIZER)
        file, lock = self.locked(tmp_path, tools, HUB.replace("hf://ada/model", "file://other"))
        check_sources(lock, file, tools)
        write(tmp_path / "other", {"tokenizer.json": b"[7]"})
        with pytest.raises(IntegrityError, match=r"tokenizer\.json changed since it was locked") as caught:
            check_sources(lock, file, tools)
        assert caught.value.problems[0].where.endswith("packager.yaml:5:14")

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            (HUB.replace("ada/model", "ada/other"), "weights.tokenizer"),
            (HUB.replace("  tokenizer: hf://ada/model\n", ""), "weights.tokenizer"),
            (f"{HUB}  tokenizer_revision: v2\n", "weights.tokenizer_revision"),
        ],
    )
    def test_a_spec_that_names_another_is_out_of_date(self, tmp_path, tools, weights, repository, changed, field):
        file, lock = self.locked(tmp_path, tools)
        assert drifted(lock, file.spec) == ()
        assert [one.field for one in drifted(lock, spec(tmp_path, changed).spec)] == [field]
