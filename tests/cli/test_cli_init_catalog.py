"""`init`, `schema` and `catalog`, through the command line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from packager.catalog import catalog, find
from packager.cli.app import main
from packager.cli.init import ENGINES
from packager.errors import SpecError
from packager.lock.check import check
from packager.recipes import RECIPES
from packager.spec import json_schema, load_spec


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["my-model", "123", "true", "1.5", "null"])
def test_init_writes_a_spec_that_is_right_as_it_stands(folder, capsys, engine, name):
    assert main(["init", f"models/{name}", "--engine", engine]) == 0
    said = capsys.readouterr()
    assert said.out == f"models/{name}/packager.yaml\n"
    assert f"packager build models/{name}" in said.err
    spec = load_spec(Path("models") / name).spec
    assert (spec.name, spec.engine.kind) == (name, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_init_comments_out_is_right_too(folder, engine):
    assert main(["init", "x", "--engine", engine]) == 0
    path = folder / "x" / "packager.yaml"
    head, *lines = path.read_text().splitlines()
    text = "\n".join(re.sub(r"^( *)# ", r"\1", line) for line in lines)
    assert text.count("#") < "\n".join(lines).count("#")
    path.write_text(f"{head}\n{text}")
    file = load_spec(path)
    check(file)
    assert file.spec.image.tag == "v1"
    if engine != "echo":
        assert file.spec.engine.context_length == 4096
        assert file.spec.weights.chat_template == "chat.jinja"
    if RECIPES[engine].folder:
        assert file.spec.weights.tokenizer == "hf://OWNER/NAME"
    if engine in ("transformers", "vllm"):
        assert file.spec.hardware.gpu == "a100-40gb"


def test_init_has_every_engine():
    assert set(ENGINES) == set(RECIPES)


def test_a_disk_without_room_leaves_no_half_of_a_spec(folder):
    code = (
        "import resource, sys; from packager.cli.app import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); sys.exit(main(['init', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: x/packager.yaml: cannot write: ")
    assert not (folder / "x" / "packager.yaml").exists()


def test_init_overwrites_nothing(folder, capsys):
    (folder / "x").mkdir()
    (folder / "x" / "packager.yaml").write_text("mine")
    assert main(["init", "x"]) == 1
    assert capsys.readouterr().err == (
        "error: x/packager.yaml: there is a spec already\n  mend: give another name, or remove it first\n"
    )
    assert (folder / "x" / "packager.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("My Model", "the name must be lower-case letters and digits, joined by `-`, `_` or `.`, not 'My Model'"),
        ("a:b", "the name must be lower-case letters and digits, joined by `-`, `_` or `.`, not 'a:b'"),
        ("x" * 64, "the name must be at most 63 characters, not 64"),
        ("a\nb", "the name must not hold a line break"),
    ],
)
def test_init_refuses_names_that_no_image_can_have(folder, capsys, name, what):
    assert main(["init", name]) == 1
    assert what in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_init_where_a_file_is_in_the_way(folder, capsys):
    (folder / "x").write_text("")
    assert main(["init", "x"]) == 1
    assert capsys.readouterr().err.startswith("error: x/packager.yaml: ")


def test_schema_prints_json(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_schema_check_reports_all_specs(folder, capsys):
    for name, engine in [("good", "echo"), ("bad", "ecco"), ("worse", "x")]:
        (folder / name).mkdir()
        (folder / name / "packager.yaml").write_text(f"name: x\nengine: {{kind: {engine}}}\n")
    assert main(["schema", "--check", "good"]) == 0
    assert capsys.readouterr() == ("", "good/packager.yaml: no problems\n")
    assert main(["schema", "--check", "-q", "good", "worse", "bad"]) == 1
    said = capsys.readouterr().err
    assert said.index("worse/packager.yaml:2:16") < said.index("bad/packager.yaml:2:16")


@pytest.fixture
def tree(folder):
    """A source tree with two examples."""
    for name, text in [("hello", "name: hello\ndescription: Says hello\n"), ("mistral-7b", "name: [broken\n")]:
        (folder / "tree" / "examples" / name).mkdir(parents=True)
        (folder / "tree" / "examples" / name / "packager.yaml").write_text(text)
    (folder / "tree" / "examples" / "no-spec").mkdir()
    (folder / "tree" / "pyproject.toml").write_text("")
    return folder / "tree"


def test_the_catalog_lists_folders_with_a_spec(tree):
    assert [(one.name, one.summary) for one in catalog(tree)] == [("hello", "Says hello"), ("mistral-7b", "")]


def test_what_no_engine_serves_is_marked(tree):
    assert [one.refused for one in catalog(tree)] == [False, False]
    (tree / "examples" / "mistral-7b" / "refusal.txt").write_text("error: packager.yaml:2:16: no\n")
    assert [one.refused for one in catalog(tree)] == [False, True]


def test_examples_beside_an_installed_package_are_somebody_elses(tree):
    (tree / "pyproject.toml").unlink()
    assert catalog(tree) == ()


def test_find(tree, folder):
    assert find("hello", tree) == tree / "examples" / "hello"
    (folder / "hello").mkdir()
    assert find("hello", tree) == tree / "examples" / "hello"  # a folder without a spec does not hide it
    (folder / "hello" / "packager.yaml").write_text("")
    assert find("hello", tree) == Path("hello")
    assert find("some/where", tree) == Path("some/where")
    assert find("other.yaml", tree) == Path("other.yaml")


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("mistral-7", "did you mean `mistral-7b`? `packager catalog` lists the names"),
        ("zzz", "give the path of a spec; `packager init zzz` makes one"),
    ],
)
def test_names_that_are_nothing(tree, name, mend):
    with pytest.raises(SpecError) as caught:
        find(name, tree)
    assert caught.value.problems[0].what == "no file, folder or catalog entry has this name"
    assert caught.value.problems[0].mend == mend


def test_a_name_where_the_examples_are_not_installed(folder):
    with pytest.raises(SpecError) as caught:
        find("hello", folder)
    mend = "the examples are not installed with packager, they lie in its source tree: "
    assert caught.value.problems[0].mend == mend + "give the path of a spec; `packager init hello` makes one"


def test_the_real_catalog_is_right(capsys):
    assert main(["catalog", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {"echo", "hello"} <= {one["name"] for one in listed}
    for one in listed:
        assert load_spec(Path(one["path"])).spec.name == one["name"]
        assert one["summary"], f"{one['name']} has no description"
        # another reader of YAML sees the same names
        assert yaml.safe_load((Path(one["path"]) / "packager.yaml").read_bytes())["name"] == one["name"]
    assert main(["catalog"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [one["name"] for one in listed]
    assert [line[1] == "refused:" for line in lines] == [one["refused"] for one in listed]
