"""The catalog holds true: each example's spec, its file lists, what its README says, and its refusal where it is one."""

import json
import shutil
from pathlib import Path, PurePosixPath

import pytest
from fakes.catalog import localized, read_examples, stand_in_world

from packager.cli.app import main
from packager.lock.check import check
from packager.recipes import RECIPES
from packager.spec.load import load_spec

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
OURS = ("echo", "hello")
"""Examples with nothing to fetch: the first has no weights, the second brings its own."""
ROWS = [one for one in read_examples(EXAMPLES) if one.name not in OURS]
SERVED = [one for one in ROWS if one.refusal is None]
REFUSED = [one for one in ROWS if one.refusal is not None]
LONGEST = 60
"""Lines of a README: one screen."""


WALK_THROUGHS = (
    "baichuan2-13b-transformers baichuan2-13b-transformers-int8 baichuan2-13b-vllm baichuan2-13b-vllm-4bit "
    "baichuan2-13b-trt baichuan2-13b-trt-int8 qwen1.5-1.8b-chat-triton-vllm qwen1.5-1.8b-chat-transformers "
    "internlm2-7b-lmdeploy internlm2-7b-lmdeploy-kv-int8 internlm2-7b-lmdeploy-awq internlm2-7b-lmdeploy-tp2 "
    "mistral-7b-trt phi-2-transformers phi-2-vllm mistral-7b-bnb-int8 mistral-7b-bnb-int4 mistral-7b-bnb-nf4"
)
"""What the project grew from: none of them may be missing."""


def named(rows):
    return pytest.mark.parametrize("row", rows, ids=[one.name for one in rows])


def copied(row, folder):
    """The example beside nothing of ours, with the digests of its stand-ins."""
    copy = folder / row.name
    shutil.copytree(row.folder, copy, ignore=shutil.ignore_patterns("packager.lock", "dist"))
    (copy / "packager.yaml").write_text(localized(row))
    return copy


def test_every_walk_through_has_its_rows():
    assert set(WALK_THROUGHS.split()) <= {one.name for one in ROWS}


@named(ROWS)
def test_the_folder_is_whole(row):
    assert row.spec.name == row.name
    readme = (row.folder / "README.md").read_text("utf-8").splitlines()
    assert readme[0].startswith("# ")
    assert len(readme) <= LONGEST
    config = json.loads((row.folder / "config.json").read_text("utf-8"))
    assert config["architectures"]


@named(ROWS)
def test_its_files_are_those_of_its_addresses(row):
    weights = row.spec.weights
    addresses = {weights.source, weights.tokenizer, *(one.source for one in weights.adapters)} - {None}
    assert set(row.files) == addresses
    for address, paths in row.files.items():
        assert paths, address
        assert len(set(paths)) == len(paths), address
        assert not [path for path in paths if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts]


@named(SERVED)
def test_its_engine_finds_what_it_opens(row):
    check(load_spec(row.folder))
    recipe, weights = RECIPES[row.spec.engine.kind], row.spec.weights
    paths = row.files[weights.source]
    taken = [one for one in paths if weights.include is None or any(map(PurePosixPath(one).match, weights.include))]
    elsewhere = row.files[weights.tokenizer] if weights.tokenizer else []
    assert recipe.entry([*taken, *elsewhere], weights.file)


@named(SERVED)
def test_it_fits_the_gpu_that_it_names(row, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    copy = copied(row, tmp_path)
    assert row.spec.hardware.gpu or not RECIPES[row.spec.engine.kind].gpu_only
    assert main(["plan", "--offline", str(copy)]) == 0
    if row.spec.hardware.gpu:
        assert "\nfits: " in capsys.readouterr().out


def test_every_readme_has_its_plan():
    """And docs/generate.py holds it true (test_reference_docs.py)."""
    assert [one.name for one in ROWS if not planned(one.folder)] == []


def planned(folder):
    text = (folder / "README.md").read_text("utf-8")
    return text.count("\n<!-- plan -->\n") == text.count("\n<!-- /plan -->\n") == 1


@named(REFUSED)
def test_a_refusal_says_what_lock_says(row, tmp_path, monkeypatch, capsys):
    """Before anything but the weights is asked for: there is neither a base nor an index, and no other stage is told of."""
    assert row.refusal.startswith("error: packager.yaml:")
    with stand_in_world([row]) as world:
        for name, value in {**world, "PACKAGER_CACHE": str(tmp_path / "cache"), "PIP_NO_INDEX": "1"}.items():
            monkeypatch.setenv(name, value)
        copy = copied(row, tmp_path)
        monkeypatch.chdir(copy)
        assert main(["lock", "--quiet"]) == 1
        assert capsys.readouterr().err == row.refusal
        assert main(["lock"]) == 1
    stages = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lock: ")]
    assert stages in ([], ["lock: weights"])
    assert not (copy / "packager.lock").exists()


@named(REFUSED)
def test_a_refusals_readme_says_that_it_is_one(row):
    assert "[refusal.txt](refusal.txt)" in (row.folder / "README.md").read_text("utf-8")


class TestGenerator:
    """docs/generate.py over an example of the test's own."""

    README = "# one\n\n<!-- plan -->\nold\n<!-- /plan -->\n\nRest.\n"

    @pytest.fixture
    def generator(self, monkeypatch):
        monkeypatch.syspath_prepend(str(ROOT / "docs"))
        import generate as module

        return module

    @pytest.fixture
    def one(self, tmp_path):
        folder = tmp_path / "one"
        folder.mkdir()
        spec = "name: one\nengine: {kind: vllm}\nweights: {source: 'hf://a/b'}\nhardware: {gpu: GPU}\n"
        (folder / "packager.yaml").write_text(spec.replace("GPU", "a10g"))
        shutil.copy(ROOT / "tests/unit/sizing/configs/qwen1.5-1.8b.json", folder / "config.json")
        (folder / "README.md").write_text(self.README)
        (folder / "packager.lock").write_text("not looked at")
        return folder

    def test_the_block_is_what_plan_prints(self, generator, one, capsys):
        text = generator.with_plan(one)
        (one / "packager.lock").unlink()
        assert main(["plan", "--offline", str(one)]) == 0
        said = capsys.readouterr()
        block = f"```text\n$ packager plan one\n{said.out}{said.err}```\n"
        assert text == self.README.replace("old\n", block)

    def test_written_again_it_is_the_same(self, generator, one):
        (one / "README.md").write_text(generator.with_plan(one))
        assert generator.with_plan(one) == (one / "README.md").read_text()

    def test_a_readme_without_the_marks_is_left_alone(self, generator, one):
        (one / "README.md").write_text("# one\n")
        assert generator.with_plan(one) == "# one\n"

    def test_what_does_not_fit_is_said_there(self, generator, one):
        """With the same words wherever it is made; that no example says so is for test_it_fits_the_gpu_that_it_names."""
        spec = (one / "packager.yaml").read_text()
        (one / "packager.yaml").write_text(spec.replace("a10g", "rtx-3070"))
        shutil.copy(ROOT / "tests/unit/sizing/configs/llama-3-8b.json", one / "config.json")
        assert "\nerror: one/packager.yaml:4:17: the model does not fit: rtx-3070 lacks " in generator.with_plan(one)
