"""Nothing is loaded whose bytes are not the manifest's; nothing is hashed twice without a reason."""

import os
import shutil
import tempfile
import threading
from dataclasses import replace
from typing import ClassVar

import pytest
from fakes.web import Web

from packager.digest import sha256_hex
from packager.errors import FetchError, IntegrityError, LoadError, PackageError
from packager.manifest import EngineManifest, Manifest, ServingManifest, WeightsFile, WeightsManifest
from packager.store import Store
from packager.weights.identity import file_digest
from packager.weights.load import ensure_adapters, ensure_weights, fetch_weights, verify_file
from packager.weights.watch import Watch

CONTENT = {"model.gguf": b"GGUF" * 300_000, "sub/tokenizer.json": b"{}", "empty.txt": b""}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source")


def write(folder):
    for name, data in CONTENT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def manifest(ship, source="file://weights", content=CONTENT):
    files = tuple(WeightsFile(name, len(data), sha256_hex(data)) for name, data in content.items())
    weights = WeightsManifest(f"file://{source}" if ship == "on_load" else source, "", ship, ".", files)
    return Manifest(
        "hello", "0", EngineManifest("llama_cpp", "1", {}), weights, ServingManifest("bentoml", "packager", 1, 1, 1, 1)
    )


class Counter(Watch):
    """Counts what is read: progress is reported for every byte that is."""

    def __init__(self):
        self.seen = []

    def on_bytes(self, title, done, total):
        self.seen.append((title, done, total))


class TestInImage:
    def test_verified_where_they_lie(self, tmp_path, store):
        write(tmp_path / "package/data")
        root = ensure_weights(manifest("in_image"), tmp_path / "package", store)
        assert root == tmp_path / "package/data"

    def test_a_missing_file(self, tmp_path, store):
        write(tmp_path / "data")
        (tmp_path / "data/sub/tokenizer.json").unlink()
        with pytest.raises(LoadError, match=r"sub/tokenizer\.json is missing"):
            ensure_weights(manifest("in_image"), tmp_path, store)

    @pytest.mark.parametrize("data", [b"", b"GGUF" * 999, b"GGUF" * 300_000 + b"x"])
    def test_another_size_is_found_without_reading(self, tmp_path, store, data):
        write(tmp_path / "data")
        (tmp_path / "data/model.gguf").write_bytes(data)
        counter = Counter()
        with pytest.raises(IntegrityError, match=f"it has {len(data)} bytes, the manifest says 1200000"):
            ensure_weights(manifest("in_image"), tmp_path, store, watch=counter)
        assert "verify model.gguf" not in [title for title, _, _ in counter.seen]

    def test_one_other_byte(self, tmp_path, store):
        write(tmp_path / "data")
        path = tmp_path / "data/model.gguf"
        path.write_bytes(b"X" + CONTENT["model.gguf"][1:])
        with pytest.raises(IntegrityError, match="not what was packaged") as caught:
            ensure_weights(manifest("in_image"), tmp_path, store)
        assert caught.value.problems[0].where == str(path)

    def test_an_engine_without_weights(self, tmp_path, store):
        plain = Manifest("echo", "0", EngineManifest("echo", "1", {}), None, manifest("in_image").serving)
        assert ensure_weights(plain, tmp_path, store) == tmp_path


class TestAdapters:
    """LoRA adapters: each in a folder of its own, every file verified like the weights."""

    def adapted(self, ship, **sources):
        file = WeightsFile("adapter_model.safetensors", 4, sha256_hex(b"lora"))
        adapters = {name: WeightsManifest(f"file://{at}", "", ship, ".", (file,)) for name, at in sources.items()}
        return replace(manifest("in_image"), adapters=adapters)

    def test_in_the_package(self, tmp_path, store):
        for name in ("one", "two"):
            path = tmp_path / "data/adapters" / name / "adapter_model.safetensors"
            path.parent.mkdir(parents=True)
            path.write_bytes(b"lora")
        found = ensure_adapters(self.adapted("in_image", one="x", two="y"), tmp_path, store)
        assert found == {name: tmp_path / "data/adapters" / name for name in ("one", "two")}
        path.write_bytes(b"LORA")
        with pytest.raises(IntegrityError, match="not what was packaged"):
            ensure_adapters(self.adapted("in_image", one="x", two="y"), tmp_path, store)

    def test_fetched(self, tmp_path, store):
        (tmp_path / "lora").mkdir()
        (tmp_path / "lora/adapter_model.safetensors").write_bytes(b"lora")
        found = ensure_adapters(self.adapted("on_load", one=tmp_path / "lora"), tmp_path, store)
        assert (found["one"] / "adapter_model.safetensors").read_bytes() == b"lora"
        with pytest.raises(LoadError):
            ensure_adapters(self.adapted("on_load", one=tmp_path / "none"), tmp_path, Store(tmp_path / "other"))

    def test_none(self, tmp_path, store):
        assert ensure_adapters(manifest("in_image"), tmp_path, store) == {}


class TestTokenizer:
    """A tokenizer from another source: its files stand among the weights, and are verified like them."""

    OTHER: ClassVar = {"tokenizer.json": b"[]", "merges.txt": b"a b"}

    def made(self, ship, source="w", other="t"):
        tokenizer = manifest(ship, other, self.OTHER).weights
        return replace(manifest(ship, source), tokenizer=tokenizer)

    def test_in_the_package(self, tmp_path, store):
        root = write(tmp_path / "data")
        for name, data in self.OTHER.items():
            (root / name).write_bytes(data)
        assert ensure_weights(self.made("in_image"), tmp_path, store) == root
        (root / "tokenizer.json").write_bytes(b"{}")
        with pytest.raises(IntegrityError, match="not what was packaged"):
            ensure_weights(self.made("in_image"), tmp_path, store)

    def test_from_two_places_into_one_folder(self, tmp_path, source, store):
        with Web(self.OTHER) as web:
            made = self.made("on_load", source)
            made = replace(made, tokenizer=replace(made.tokenizer, source=f"{web.url}/"))
            root = ensure_weights(made, tmp_path, store)
            assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == {
                *CONTENT,
                *self.OTHER,
            }
            assert (root / "tokenizer.json").read_bytes() == b"[]"
            assert {one.path for one in web.requests} == {"/tokenizer.json", "/merges.txt"}
        assert ensure_weights(made, tmp_path, store) == root, "it is asked for once"

    def test_one_that_is_nowhere(self, tmp_path, source, store):
        with pytest.raises(LoadError):
            ensure_weights(self.made("on_load", source, tmp_path / "none"), tmp_path, store)

    def test_offline_what_lies_here_is_no_matter(self, tmp_path, source, store, monkeypatch):
        made = self.made("on_load", source)
        made = replace(made, tokenizer=replace(made.tokenizer, source="hf://ada/model"))
        monkeypatch.setenv("PACKAGER_OFFLINE", "1")
        with pytest.raises(
            FetchError, match=r"2 of 5 files are not in the store, and .*: tokenizer\.json, merges\.txt"
        ):
            ensure_weights(made, tmp_path, store)

    def test_a_manifest_in_which_both_have_a_file(self, tmp_path, source, store):
        """No lock of ours says so; the manifest is a file that anyone can have written."""
        twice = replace(manifest("on_load", source), tokenizer=manifest("on_load", source).weights)
        with pytest.raises(PackageError, match=r"the weights list 'model\.gguf' twice"):
            ensure_weights(twice, tmp_path, store)


class TestMemo:
    """A file that was verified is not read again while size, inode and times stay."""

    def test_the_second_time_reads_nothing(self, source, store):
        first, second = Counter(), Counter()
        digest = file_digest(source / "model.gguf", store, first.on_bytes)
        assert digest == sha256_hex(CONTENT["model.gguf"])
        assert first.seen[-1:] == [("verify model.gguf", 1200000, 1200000)]
        assert file_digest(source / "model.gguf", store, second.on_bytes) == digest
        assert second.seen == []

    def change_in_place(self, path):
        path.write_bytes(b"X" * path.stat().st_size)

    def change_and_put_the_time_back(self, path):
        status = path.stat()
        self.change_in_place(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace(self, path):
        other = path.with_name("other")
        other.write_bytes(b"X" * path.stat().st_size)
        status = path.stat()
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(path)

    @pytest.mark.parametrize("change", [change_in_place, change_and_put_the_time_back, replace])
    def test_a_changed_file_is_read_again(self, source, store, change):
        path = source / "model.gguf"
        file_digest(path, store)
        change(self, path)
        assert file_digest(path, store) == sha256_hex(b"X" * 1_200_000)
        with pytest.raises(IntegrityError):
            verify_file(path, WeightsFile("model.gguf", 1_200_000, sha256_hex(CONTENT["model.gguf"])), store)

    def test_two_paths_to_one_file_are_two_memos_at_most(self, source, store):
        (source / "link").symlink_to("model.gguf")
        counter = Counter()
        file_digest(source / "model.gguf", store)
        file_digest(source / "link", store, counter.on_bytes)
        assert counter.seen == []

    def test_a_link_from_the_store_is_no_change(self, source, store):
        """Each build links weights into a package: that must not cost a hash of gigabytes."""
        stored = store.add(source / "model.gguf")
        counter = Counter()
        file_digest(stored.path, store, counter.on_bytes)
        os.link(stored.path, source / "linked")
        file_digest(stored.path, store, counter.on_bytes)
        (source / "linked").unlink()
        file_digest(stored.path, store, counter.on_bytes)
        assert len(counter.seen) == 2  # a megabyte at a time: hashed once

    @pytest.mark.parametrize("memo", [None, [], {}, ["x"], "text", [1, 2, 3, 4, 5, 6]])
    def test_a_damaged_memo_is_no_memo(self, source, store, memo):
        path = source / "model.gguf"
        file_digest(path, store)
        (kept,) = (store.root / "memo/digest").iterdir()
        store.remember("digest", kept.stem, memo)
        assert file_digest(path, store) == sha256_hex(CONTENT["model.gguf"])


class TestOnLoad:
    def test_fetched_verified_and_laid_out(self, tmp_path, source, store):
        counter = Counter()
        root = ensure_weights(manifest("on_load", source), tmp_path, store, watch=counter)
        assert {name: (root / name).read_bytes() for name in CONTENT} == CONTENT
        assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == set(CONTENT)
        assert (root / "model.gguf").is_symlink()
        assert (root / "model.gguf").resolve() == store.path(sha256_hex(CONTENT["model.gguf"])).resolve()
        assert counter.seen[-1] == ("weights", 1200002, 1200002)

    def test_again_without_the_source(self, tmp_path, source, store):
        first = ensure_weights(manifest("on_load", source), tmp_path, store)
        for name in CONTENT:
            (source / name).unlink()
        counter = Counter()
        assert ensure_weights(manifest("on_load", source), tmp_path, store, watch=counter) == first
        assert counter.seen == []  # nothing is hashed again, small or large: all was as it came

    def test_other_bytes_at_the_source(self, tmp_path, source, store):
        (source / "model.gguf").write_bytes(b"X" * 1_200_000)
        with pytest.raises(IntegrityError):
            ensure_weights(manifest("on_load", source), tmp_path, store)
        assert store.find(sha256_hex(CONTENT["model.gguf"])) is None
        assert not (store.root / "trees").exists()

    def test_a_source_that_is_gone(self, tmp_path, store):
        with pytest.raises(LoadError, match="cannot be read"):
            ensure_weights(manifest("on_load", tmp_path / "nowhere"), tmp_path, store)

    @pytest.mark.parametrize("sha256", ["{}/victim", "../../../victim", "A" * 64, "a" * 63, ""])
    def test_a_digest_that_is_none(self, tmp_path, source, store, sha256):
        """It becomes a name in the store; a manifest is a file that anyone can have written."""
        made = manifest("on_load", source)
        file = WeightsFile("model.gguf", 1_200_000, sha256.format(tmp_path))
        made = replace(made, weights=replace(made.weights, files=(file,)))
        (tmp_path / "victim.part").write_bytes(b"mine")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(PackageError, match=r"the weights list 'model\.gguf' with 1200000 bytes and the sha256"):
            ensure_weights(made, tmp_path, store)
        assert sorted(tmp_path.rglob("*")) == before
        assert (tmp_path / "victim.part").read_bytes() == b"mine"

    def test_a_scheme_of_another_version(self, tmp_path, store):
        later = manifest("in_image", "gopher://bucket/model")
        weights = WeightsManifest("gopher://bucket/model", "", "on_load", ".", later.weights.files)
        with pytest.raises(LoadError, match="no address this version reads"):
            ensure_weights(Manifest("x", "0", later.engine, weights, later.serving), tmp_path, store)

    def test_a_damaged_file_in_the_store_is_fetched_again(self, tmp_path, source, store):
        root = ensure_weights(manifest("on_load", source), tmp_path, store)
        stored = (root / "model.gguf").resolve()
        stored.chmod(0o644)
        stored.write_bytes(b"X" * 1_200_000)
        assert ensure_weights(manifest("on_load", source), tmp_path, store) == root
        assert (root / "model.gguf").read_bytes() == CONTENT["model.gguf"]
        stored.chmod(0o644)
        stored.write_bytes(b"X" * 1_200_000)
        (source / "model.gguf").unlink()
        with pytest.raises(LoadError):
            ensure_weights(manifest("on_load", source), tmp_path, store)

    def test_what_was_fetched_is_hashed_once(self, tmp_path, source, store):
        ensure_weights(manifest("on_load", source), tmp_path, store)
        counter = Counter()
        ensure_weights(manifest("on_load", source), tmp_path, store, watch=counter)
        assert "verify model.gguf" not in [title for title, _, _ in counter.seen]

    def test_many_threads_at_once(self, tmp_path, source):
        """Several rounds: they meet where each finds no tree and makes one."""
        for number in range(25):
            store = Store(tmp_path / f"store-{number}")
            start = threading.Barrier(8)
            found, failed = [], []

            def load(store=store, start=start, found=found, failed=failed):
                start.wait()
                try:
                    found.append(ensure_weights(manifest("on_load", source), tmp_path, store))
                except Exception as error:  # noqa: BLE001 - shown by the assertion below
                    failed.append(error)

            threads = [threading.Thread(target=load) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert failed == []
            assert len(found) == 8
            (root,) = set(found)
            assert {name: (root / name).read_bytes() for name in CONTENT} == CONTENT
            assert [path.name for path in root.parent.iterdir()] == [root.name]


class TestTrees:
    """The folder that the engine opens: what is not as it was laid out is never handed over."""

    def lost(self, tree):
        """As where a store was copied to a disk without links."""
        shutil.rmtree(tree)
        (tree / "sub").mkdir(parents=True)

    def half(self, tree):
        (tree / "sub/tokenizer.json").unlink()

    def followed(self, tree):
        """As `cp -L` copies, of which the bytes may change later."""
        data = (tree / "model.gguf").read_bytes()
        (tree / "model.gguf").unlink()
        (tree / "model.gguf").write_bytes(data)

    def led_away(self, tree):
        other = tree.parents[2] / "other"
        other.write_bytes(b"X" * 1_200_000)
        (tree / "model.gguf").unlink()
        (tree / "model.gguf").symlink_to(other)

    def planted(self, tree):
        (tree / "sub/modeling.py").write_text("import os")

    def a_planted_folder(self, tree):
        (tree / "more").symlink_to("/etc")

    def moved(self, tree):
        """Relative links lead elsewhere from elsewhere."""
        away = tree.parents[2] / "away/trees/x"
        away.parent.mkdir(parents=True)
        tree.rename(away)
        tree.symlink_to(away)

    def a_file(self, tree):
        shutil.rmtree(tree)
        tree.write_bytes(b"")

    @pytest.mark.parametrize("harm", [lost, half, followed, led_away, planted, a_planted_folder, moved, a_file])
    def test_one_that_is_not_as_it_was_made_is_made_again(self, tmp_path, source, store, harm):
        made = manifest("on_load", source)
        first = ensure_weights(made, tmp_path, store)
        harm(self, first)
        root = ensure_weights(made, tmp_path, store)
        assert root == first
        assert not root.is_symlink()
        laid = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.name != "sub"}
        assert set(laid) == set(CONTENT)
        for name, path in laid.items():
            assert path.resolve() == store.path(sha256_hex(CONTENT[name])).resolve()
        assert [path.name for path in root.parent.iterdir()] == [root.name]

    def test_one_that_is_whole_stays(self, tmp_path, source, store):
        root = ensure_weights(manifest("on_load", source), tmp_path, store)
        inode = root.stat().st_ino
        assert ensure_weights(manifest("on_load", source), tmp_path, store) == root
        assert root.stat().st_ino == inode

    def test_where_the_store_takes_no_tree_it_is_made_elsewhere(self, tmp_path, source, store, monkeypatch):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", None)  # asked for once, and remembered
        store.root.mkdir()
        (store.root / "trees").write_bytes(b"")
        root = ensure_weights(manifest("on_load", source), tmp_path, store)
        assert root.parent == tmp_path
        assert {name: (root / name).read_bytes() for name in CONTENT} == CONTENT

    def test_where_there_is_no_place_at_all(self, tmp_path, source, store, monkeypatch):
        store.root.mkdir()
        (store.root / "trees").write_bytes(b"")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        with pytest.raises(LoadError, match="no place for links to the weights") as caught:
            ensure_weights(manifest("on_load", source), tmp_path, store)
        assert "TMPDIR" in caught.value.problems[0].mend


class TestWhatChangesWhileMoreComes:
    """One of two files changes in the store after it was found intact, while the other is fetched."""

    FILES: ClassVar = {"a": b"a" * (3 << 20), "b": b"b" * (3 << 20)}

    def load(self, store, harm):
        with Web(self.FILES) as web:
            weights = manifest("on_load", content=self.FILES).weights
            weights = replace(weights, source=f"{web.url}/")
            fetch_weights((weights,), store)
            store.path(sha256_hex(self.FILES["b"])).unlink()
            web.faults = lambda _: harm(store.path(sha256_hex(self.FILES["a"])))
            fetch_weights((weights,), store)
            web.faults = lambda _: None
            fetch_weights((weights,), store)

    def test_another_one_is_hashed_at_the_next_load(self, store):
        def harm(path):
            path.chmod(0o644)
            path.write_bytes(b"X" * len(self.FILES["a"]))

        self.load(store, harm)
        assert store.path(sha256_hex(self.FILES["a"])).read_bytes() == self.FILES["a"]

    def test_one_that_went_is_fetched_at_the_next_load(self, store):
        self.load(store, lambda path: path.unlink(missing_ok=True))
        assert store.find(sha256_hex(self.FILES["a"])) is not None
