"""What may stand among weights: data under plain names."""

import pytest

from packager.weights.policy import refuse
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
        "Ünïcode.txt",
        "a" * 255,
    ],
)
def test_data_is_taken(path):
    assert problems(path) == []


@pytest.mark.parametrize(
    "path",
    ["pytorch_model.bin", "model.pt", "model.PTH", "sub/x.ckpt", "a.pkl", "a.pickle", "arrays.npy", "m.joblib"],
)
def test_pickles_are_refused(path):
    assert problems(path) == [f"{path} is a pickle: opening it runs code"]


@pytest.mark.parametrize(
    "path", ["modeling_x.py", "sub/lib.so", "run.sh", "x.dll", "X.PY", "x.pyc", "x.exe", "x.dylib"]
)
def test_code_is_refused(path):
    assert problems(path) == [f"{path} is code, not weights"]


@pytest.mark.parametrize(
    "path",
    ["../up", "a/../b", "/etc/passwd", "a//b", "a/./b", "", "a\\b", "a\nb", "a\0b", "a\x1b[2J", "b" * 256, "a/"],
)
def test_paths_that_lead_astray_are_refused(path):
    assert problems(path) == [f"the weights list an unsafe path {path!r}"]


def test_every_file_is_reported_with_its_place():
    found = refuse([SourceFile("a.py", 1), SourceFile("ok.gguf", 1), SourceFile("b.pt", 1)], where="spec:1:1")
    assert [problem.what.split()[0] for problem in found] == ["a.py", "b.pt"]
    assert {problem.where for problem in found} == {"spec:1:1"}
    assert all("weights.include" in problem.mend for problem in found)
