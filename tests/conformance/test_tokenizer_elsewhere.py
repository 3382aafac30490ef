"""A tokenizer from another source than the weights: locked, packaged, loaded into one folder, and served by the engine."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from cases import CONTEXT, Case, make_weights
from fakes.compiled import describe_engine
from fakes.locks import make_lock
from fakes.serving import ProcessServer
from fakes.web import Web

from packager.command import run_command
from packager.lock.sources import fetch_sources
from packager.lock.tokenizer import TOKENIZER_FILES
from packager.lock.tools import Tools
from packager.lock.weights import lock_weights
from packager.package.plan import plan_package
from packager.package.sources import read_ingredients
from packager.package.write import write_package
from packager.spec.load import load_spec
from packager.store import Store

SPEC = """\
name: hello
engine: {{kind: {kind}, context_length: {context}}}
weights:
  source: file://{weights}
  tokenizer: {tokenizer}
  ship: {ship}
serving: {{server: standalone, max_concurrency: 4}}
{hardware}
"""
NOT_FOR = ("echo", "llama_cpp", "transformers", "vllm", "lmdeploy")
"""The first two take no tokenizer, the others hand the folder to a library; the rest reads tokenizer.json by our own code."""


@pytest.fixture
def web(case: Case, models: Path, tmp_path: Path) -> Iterator[Web]:
    """The tokenizer's files on a web server, beside a model card; the weights without them are in `weights`."""
    folder = make_weights(case.weights, case.kind, models)
    assert folder is not None
    (tmp_path / "weights").mkdir()
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in files.keys() - {*TOKENIZER_FILES}:
        (tmp_path / "weights" / name).write_bytes(files[name])
    if case.kind == "tensorrt_llm_engine":
        describe_engine(tmp_path / "weights", tokenizer_sha256=hashlib.sha256(files["tokenizer.json"]).hexdigest())
    there = {name: files[name] for name in files.keys() & {*TOKENIZER_FILES}} | {"README.md": b"a model"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in there.items())
    with Web({f"m/{name}": data for name, data in {**there, "SHA256SUMS": sums.encode()}.items()}) as web:
        yield web


@pytest.mark.parametrize("ship", ["in_image", "on_load"])
def test_it_is_served(case: Case, web: Web, tmp_path: Path, ship: str) -> None:
    package, store = tmp_path / "package", Store(tmp_path / "store")
    hardware = "hardware: {gpu: a100-40gb}" if case.shows_not is not None else ""
    tokenizer = f"{web.url}/m/"
    values = {"kind": case.kind, "context": CONTEXT, "weights": tmp_path / "weights", "ship": ship}
    (tmp_path / "packager.yaml").write_text(SPEC.format(**values, tokenizer=tokenizer, hardware=hardware))
    file, tools = load_spec(tmp_path), Tools(store=store, run=run_command)
    weights, beside = lock_weights(file, tools)
    assert weights is not None
    assert beside is not None
    assert {"tokenizer.json", "tokenizer_config.json"} <= {one.path for one in beside.files} <= {*TOKENIZER_FILES}
    # What the engine was compiled for is of no matter to a stand-in, and no such GPU is here.
    lock = make_lock(file.spec, weights=replace(weights, compiled=None), tokenizer=beside, requirements=())
    fetch_sources(lock, file, tools)
    package.mkdir()
    write_package(plan_package(file.spec, lock, read_ingredients(file)), package, store)
    with ProcessServer(package, **case.environment(package)) as server:
        server.wait_ready()
        asked = {"prompt": "hello", "max_tokens": 8, "temperature": 0}
        answer = httpx.post(f"{server.url}/predict", json=asked, timeout=60)
        assert answer.json()["text"], answer.text
