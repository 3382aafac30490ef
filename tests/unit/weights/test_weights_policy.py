"""What may stand among weights: data under plain names."""

import json

import pytest

from packager.manifest import WeightsFile
from packager.weights.policy import MOST_FILES, check_names, refuse, refuse_own_code, refuse_pickle
from packager.weights.source import SourceFile


def problems(*paths):
    return [problem.what for problem in refuse([SourceFile(path, 1) for path in paths], where="spec:1:1")]


@pytest.mark.parametrize(
    "path",
    [
        "model.gguf",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "sub/folder/config.json",
        "README.md",
        "chat_template.jinja",
        "training_args.bin",
        "checkpoint/training_args.bin",
        "notes.so.txt",
        "Ünïcode.txt",
        "a" * 255,
    ],
)
def test_data_is_taken(path):
    assert problems(path) == []
    assert check_names([SourceFile(path, 1)]) == ()


@pytest.mark.parametrize(
    "path",
    [
        "pytorch_model.bin",
        "model.pt",
        "model.PTH",
        "sub/x.ckpt",
        "a.pkl",
        "a.pickle",
        "arrays.npy",
        "arrays.npz",
        "m.joblib",
        "m.pkl.gz",
        "checkpoint.pth.tar",
        "m.bin.ZIP",
        "__0_0.distcp",
        "rust_model.ot",
        "m.pt2",
        "m.dill",
        "model.pdparams",
        "not_training_args.bin",
    ],
)
def test_pickles_are_refused(path):
    assert problems(path) == [f"{path} is a pickle: opening it runs code"]


@pytest.mark.parametrize(
    "path",
    [
        *("modeling_x.py", "sub/lib.so", "run.sh", "x.dll", "X.PY", "x.pyc", "x.exe", "x.dylib"),
        *("sub/lib.so.1", "libx.SO.1.2.3", "x.pyd", "run.bat", "run.cmd", "run.ps1"),
    ],
)
def test_code_is_refused(path):
    assert problems(path) == [f"{path} is code, not weights"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("../up", "empty, `.` or `..`"),
        ("a/../b", "empty, `.` or `..`"),
        ("a//b", "empty, `.` or `..`"),
        ("a/./b", "empty, `.` or `..`"),
        ("", "empty, `.` or `..`"),
        ("a/", "empty, `.` or `..`"),
        ("/etc/passwd", "does not start at the weights' folder"),
        ("a\\b", "a character that Windows keeps"),
        ("C:model.gguf", "a character that Windows keeps"),
        ("model.gguf:stream", "a character that Windows keeps"),
        ("what?", "a character that Windows keeps"),
        ("a\nb", "do not print"),
        ("a\0b", "do not print"),
        ("a\x1b[2J", "do not print"),
        ("\u202egpj.fugg", "do not print"),
        ("a\ud800", "do not print"),
        ("b" * 256, "at most 255 bytes"),
        ("\u00fc" * 128, "at most 255 bytes"),
        ("/".join(["c" * 200] * 5), "a path 1,000"),
        ("model.gguf.", "ends in a dot or a space"),
        ("sub /model.gguf", "ends in a dot or a space"),
        ("NUL", "a device on Windows"),
        ("sub/aux.json", "a device on Windows"),
        ("Com1.safetensors", "a device on Windows"),
        ("lpt\u00b9", "a device on Windows"),
    ],
)
def test_paths_that_lead_astray_are_refused(path, why):
    (problem,) = check_names([SourceFile(path, 1)], where="spec:1:1")
    assert problem.what.startswith("the weights list an unsafe path '")
    assert why in problem.what
    assert (problem.where, problem.what.isprintable()) == ("spec:1:1", True)
    assert len(problem.what) < 250


@pytest.mark.parametrize(
    "path",
    ["auxiliary.json", "com10", "nul-model.gguf", "console.txt", "\u00fc" * 127, "/".join(["c" * 199] * 5), ".hidden"],
)
def test_names_that_only_look_like_it(path):
    assert check_names([SourceFile(path, 1)]) == ()


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["a.gguf", "a.gguf"], "the weights list 'a.gguf' twice"),
        (["README.md", "ReadMe.md"], "the weights list 'README.md' and 'ReadMe.md': they differ in case"),
        (["sub/a", "SUB/a"], "the weights list 'sub/a' and 'SUB/a': they differ in case"),
        (
            ["\u00e9.txt", "e\u0301.txt"],
            "the weights list '\u00e9.txt' and 'e\u0301.txt': they differ in case or Unicode",
        ),
        (["stra\u00dfe", "STRASSE"], "the weights list 'stra\u00dfe' and 'STRASSE': they differ in case"),
        (["a", "a/b"], "the weights list 'a' as a file, and 'a/b' in a folder of that name"),
        (["x/y/z/b", "X/y"], "the weights list 'X/y' as a file, and 'x/y/z/b' in a folder of that name"),
    ],
)
def test_paths_that_cannot_lie_side_by_side(paths, said):
    (found,) = check_names([SourceFile(path, 1) for path in paths], where="manifest")
    assert (found.what[: len(said)], found.where) == (said, "manifest")


def test_paths_that_can():
    paths = ["a/b", "a.b", "A/c", "ab", "a/bb/c", "e.txt", "\u00e9.txt"]
    assert check_names([WeightsFile(path, 1, "0" * 64) for path in paths]) == ()


@pytest.mark.parametrize(
    ("size", "sha256"), [(-1, None), (1, "../up"), (1, "/etc/passwd"), (1, "A" * 64), (1, ""), (-1, "a" * 64)]
)
def test_a_size_or_a_digest_that_is_none(size, sha256):
    (found,) = check_names([SourceFile("model.gguf", size, sha256)], where="manifest")
    said = f"the weights list 'model.gguf' with {size} bytes and the sha256 {str(sha256)!r}"
    assert (found.what, found.where) == (said, "manifest")


def test_more_files_than_any_model_has():
    names = [SourceFile(f"{number}.json", 1) for number in range(MOST_FILES + 1)]
    assert check_names(names[1:]) == ()
    (found,) = check_names(names)
    assert found.what == "the weights list 10,001 files; 10,000 is the most"


def test_every_file_is_reported_with_its_place():
    found = refuse([SourceFile("a.py", 1), SourceFile("ok.gguf", 1), SourceFile("b.pt", 1)], where="spec:1:1")
    assert [problem.what.split()[0] for problem in found] == ["a.py", "b.pt"]
    assert {problem.where for problem in found} == {"spec:1:1"}
    assert all("weights.include" in problem.mend for problem in found)


def test_what_is_vouched_for_is_taken_but_no_path_that_leads_astray():
    files = [SourceFile(path, 1) for path in ("modeling_x.py", "extra.pt", "other.py", "../up.py")]
    names, code = refuse(files, where="", trusted={"modeling_x.py", "extra.pt", "../up.py"})
    assert names.what.startswith("the weights list an unsafe path '../up.py'")
    assert code.what == "other.py is code, not weights"
    assert "`weights.trusted_code`" in code.mend


def test_an_engine_that_runs_no_code_gets_no_advice_to_vouch():
    (found,) = refuse([SourceFile("x.py", 1)], where="")
    assert "trusted_code" not in found.mend


def test_a_data_file_by_its_name_at_the_top_alone():
    files = [SourceFile(path, 1) for path in ("model.bin", "sub/model.bin", "sub/Model2.bin")]
    found = refuse(files, where="", data_files=("model.bin", "model2.bin"))
    assert [problem.what.split()[0] for problem in found] == ["sub/model.bin", "sub/Model2.bin"]


@pytest.mark.parametrize(
    ("start", "fine"), [(b"\x06\0\0\0", True), (b"", True), (b"\x80\x04", False), (b"PK\3\4", False)]
)
def test_a_data_file_that_is_a_pickle_after_all(start, fine):
    found = [problem.what for problem in refuse_pickle("model.bin", start, where="")]
    assert found == ([] if fine else ["model.bin has the name of a data file and begins like a pickle"])


@pytest.mark.parametrize(
    ("auto_map", "named"),
    [
        (None, []),
        ({}, []),
        ({"AutoConfig": "conf.C", "AutoModel": "modeling.M"}, ["conf.py", "modeling.py"]),
        ({"AutoTokenizer": ["tok.Slow", None]}, ["tok.py"]),
        ({"AutoTokenizer": [None, "tok.Fast"], "AutoModel": "tok.M"}, ["tok.py"]),
        ({"AutoModel": "owner/other--modeling.M"}, ["owner/other--modeling.py"]),
        ("modeling.M", ["modeling.py"]),
        ({"AutoImageProcessor": {"torchvision": "image.Fast", "pil": "slow.Slow"}}, ["image.py", "slow.py"]),
        ({"AutoModel": 7}, []),
    ],
)
def test_code_that_a_configuration_names(auto_map, named):
    data = json.dumps({"auto_map": auto_map}).encode()
    found = refuse_own_code("config.json", data, where="spec:1:1")
    assert [problem.what.rpartition(": ")[2] for problem in found] == named
    assert refuse_own_code("config.json", data, where="", trusted=[one for one in named if "--" not in one]) == tuple(
        problem for problem in refuse_own_code("config.json", data, where="") if "--" in problem.what
    )


@pytest.mark.parametrize(
    ("path", "within"),
    [
        ("processor_config.json", lambda named: {"image_processor": named, "size": 1}),  # as of transformers 5
        ("config.json", lambda named: {"text_config": named, "architectures": ["M"]}),
        ("config.json", lambda named: {"thinker_config": {"parts": [1, {"vision_config": named}]}}),
    ],
)
def test_code_that_is_named_within_the_configuration_of_a_part(path, within):
    data = json.dumps(within({"auto_map": {"AutoModel": "a/b--x.Y"}, "module": "z.Z"})).encode()
    (found,) = refuse_own_code(path, data, where="", trusted={"x.py"})
    assert found.what == f"{path} names code of another repository: a/b--x.py"


def test_code_of_another_repository_cannot_be_vouched_for():
    data = b'{"auto_map": {"AutoModel": "owner/other--modeling.M"}}'
    (found,) = refuse_own_code("config.json", data, where="", trusted={"owner/other--modeling.py", "modeling.py"})
    assert found.what == "config.json names code of another repository: owner/other--modeling.py"


@pytest.mark.parametrize("data", [b"[]", b"7", b'"auto_map"'])
def test_a_configuration_that_names_none(data):
    assert refuse_own_code("config.json", data, where="") == ()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe{}x", b"[" * 100_000], ids=["empty", "cut", "odd", "deep"])
def test_a_configuration_that_is_none(data):
    (found,) = refuse_own_code("config.json", data, where="")
    assert found.what.startswith("config.json is not JSON")
