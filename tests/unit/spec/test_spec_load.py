"""From a file to a checked spec: each refusal with its exact words at its place."""

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from packager.errors import SpecError
from packager.manifest import ServingManifest, decode
from packager.spec import EchoSpec, ModelSpec, SpecFile, dump_spec, load_spec
from packager.spec.grammar import Grammar
from packager.spec.model import ModelSpec as Root
from packager.spec.shape import models_in

ECHO = "name: x\nengine: {kind: echo}\n"
LLAMA = "name: x\nengine: {kind: llama_cpp}\nweights: {source: file://m.gguf}\n"

VLLM = LLAMA.replace("llama_cpp", "vllm")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(folder: Path, text: str) -> SpecFile:
    (folder / "packager.yaml").write_text(text, newline="")
    return load_spec(Path("packager.yaml"))


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(folder, text)
    return [f"{p.where.removeprefix('packager.yaml:')} {p.what} | {p.mend}" for p in caught.value.problems]


def test_defaults(folder):
    spec = load(folder, LLAMA).spec
    assert dump_spec(spec) == {
        "name": "x",
        "description": None,
        "engine": {
            "kind": "llama_cpp",
            "version": None,
            "context_length": None,
            "gpu_layers": 0,
            "threads": None,
            "kv_cache": "auto",
            "flash_attention": "auto",
        },
        "weights": {
            "source": "file://m.gguf",
            "revision": None,
            "tokenizer": None,
            "tokenizer_revision": None,
            "file": None,
            "include": None,
            "chat_template": None,
            "adapters": [],
            "trusted_code": {},
            "ship": "in_image",
        },
        "quantization": "none",
        "conversion": None,
        "hardware": {"gpu": None, "count": None},
        "serving": {
            "server": "bentoml",
            "triton": "runtime",
            "api": "packager",
            "port": 3000,
            "max_concurrency": 32,
            "max_queue": 128,
            "drain_seconds": 30,
            "max_body": 2_097_152,
            "first_token_seconds": 300,
            "token_gap_seconds": 60,
            "total_seconds": None,
            "engine_restarts": 3,
            "cors_origins": [],
        },
        "image": {
            "repository": None,
            "tag": None,
            "base": None,
            "system_packages": [],
            "python_packages": [],
            "env": {},
            "labels": {},
        },
    }


FULL = r"""
name: mistral-7b.q4
description: 'One line: with {braces} and "quotes"'
engine:
  kind: llama_cpp
  version: 0.2.7
  context_length: 4096
  gpu_layers: -1
  threads: 8
  kv_cache: q8_0
  flash_attention: on
weights:
  source: file:///models/mistral
  file: q4/model.gguf
  include: ["*.gguf", "q4/*.json"]
  chat_template: templates/chat.jinja
  ship: on_load
quantization: none
hardware: {gpu: a100-40gb, count: 2}
serving: {server: standalone, port: 8080, max_concurrency: 1, max_queue: 0, drain_seconds: 0}
image:
  repository: localhost:5000/team
  tag: v1.0_rc
  base: {kind: registry, image: "registry.example.com:443/a/b__c:1.2@sha256:DIGEST"}
  system_packages: [libgomp1, g++]
  python_packages: ["pillow[extra]>=11,<12; python_version >= '3.11'"]
  env: {NO: no, ZED: z, ALPHA: a}
  labels: {org.opencontainers.image.title: x}
""".replace("DIGEST", "a" * 64)


FOLDER = r"""
name: x
engine: {kind: vllm, gpu_memory: 0.5, kv_cache_gib: 4, max_lora_rank: 64, eager: true}
weights:
  source: file://model
  trusted_code: {b.py: SHA256, a.py: SHA256}
  adapters: [{name: tuned, source: file://tuned}, {name: other.2, source: file:///other}]
serving: {cors_origins: ["*"], total_seconds: 60, token_gap_seconds: null}
""".replace("SHA256", "a" * 64)


def test_names_of_mappings_are_sorted_in_the_dump(folder):
    assert list(dump_spec(load(folder, FOLDER).spec)["weights"]["trusted_code"]) == ["a.py", "b.py"]


@pytest.mark.parametrize("text", [FULL, FOLDER, ECHO])
def test_a_dump_means_the_same(folder, text):
    spec = load(folder, text).spec
    assert ModelSpec.model_validate(dump_spec(spec)) == spec


def test_every_field_can_be_written_and_the_dump_reads_back(folder):
    spec = load(folder, FULL).spec
    plain = dump_spec(spec)
    assert plain["engine"]["flash_attention"] == "on"
    assert list(plain["image"]["env"].items()) == [("ALPHA", "a"), ("NO", "no"), ("ZED", "z")]
    assert ModelSpec.model_validate(plain) == spec


@pytest.mark.parametrize(
    ("text", "serving"),
    [
        (ECHO, ServingManifest("bentoml", "packager", 3000, 32, 128, 30)),
        (
            ECHO + "serving: {max_body: 1024, first_token_seconds: null, token_gap_seconds: null, total_seconds: 7, "
            "engine_restarts: 0, cors_origins: ['*', 'http://localhost:8080']}",
            ServingManifest(
                "bentoml", "packager", 3000, 32, 128, 30, 1024, None, None, 7, 0, ("*", "http://localhost:8080")
            ),
        ),
    ],
)
def test_the_manifest_says_what_the_spec_says_of_serving(folder, text, serving):
    said = ServingManifest(**load(folder, text).spec.serving.model_dump())
    assert said == serving
    assert decode(ServingManifest, json.loads(json.dumps(asdict(said)))) == serving


def test_a_spec_is_frozen(folder):
    spec = load(folder, ECHO).spec
    with pytest.raises(ValidationError):
        spec.name = "y"


def test_places_that_later_stages_point_at(folder):
    file = load(folder, LLAMA + "image:\n  env:\n    A: b\n")
    assert file.where() == "packager.yaml:1:1"
    assert file.where("weights", "source") == "packager.yaml:3:19"
    assert file.where("weights", "ship") == "packager.yaml:3:1"
    assert file.where("image", "env", "A") == "packager.yaml:6:8"
    assert file.where("image", "tag") == "packager.yaml:4:1"
    assert file.where("hardware", "gpu") == "packager.yaml:1:1"
    assert file.folder == folder


def test_a_folder_means_its_packager_yaml_and_names_stay_short(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "packager.yaml").write_text(ECHO)
    assert load_spec(Path("deep")).shown == "deep/packager.yaml"
    assert load_spec(folder / "deep").shown == "deep/packager.yaml"
    os.chdir("/")
    assert load_spec(folder / "deep").shown == str(folder / "deep" / "packager.yaml")[1:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # keys
        ("name: x\nengin: {kind: echo}\n", [
            "1:1 `engine` is missing | add `engine`: what runs the model, chosen by `kind`, with that engine's options",
            "2:1 unknown key 'engin' | did you mean `engine`?",
        ]),
        (ECHO + "serving: {prot: 1}", ["3:11 unknown key 'prot' in `serving` | did you mean `port`?"]),
        (ECHO + "serving: {zzz: 1}", [
            ("3:11 unknown key 'zzz' in `serving` | the keys here are: server, triton, api, port, max_concurrency, max_queue, drain_seconds, "
            "max_body, first_token_seconds, token_gap_seconds, total_seconds, engine_restarts, cors_origins"),
        ]),
        ("name: x\nengine: {kind: llama_cpp, delay_ms: 1}\nweights: {source: file://m}\n", [
            "2:27 unknown key 'delay_ms' in `engine` | the keys here are: kind, version, context_length, gpu_layers, threads, kv_cache, flash_attention",
        ]),
        # the union of engines
        ("name: x\nengine: {kind: ecco}", ["2:16 unknown engine 'ecco' | did you mean `echo`? the engines are: transformers, vllm, lmdeploy, tensorrt_llm_engine, tensorrt_llm, llama_cpp, ctranslate2, echo"]),
        ("name: x\nengine: {kind: llama-cpp}", ["2:16 unknown engine 'llama-cpp' | did you mean `llama_cpp`? the engines are: transformers, vllm, lmdeploy, tensorrt_llm_engine, tensorrt_llm, llama_cpp, ctranslate2, echo"]),
        ("name: x\nengine: {threads: 1}", ["2:1 `engine` has no `kind` | add one of: transformers, vllm, lmdeploy, tensorrt_llm_engine, tensorrt_llm, llama_cpp, ctranslate2, echo"]),
        ("name: x\nengine: {kind: 8}", ["2:16 unknown engine '8' | the engines are: transformers, vllm, lmdeploy, tensorrt_llm_engine, tensorrt_llm, llama_cpp, ctranslate2, echo"]),
        ("name: x\nengine: {kind: }", ["2:15 `engine.kind` must be text, not nothing | the engines are: transformers, vllm, lmdeploy, tensorrt_llm_engine, tensorrt_llm, llama_cpp, ctranslate2, echo"]),
        ("name: x\nengine: {kind: [echo]}", ["2:10 `engine.kind` must be text, not a list | the engines are: transformers, vllm, lmdeploy, tensorrt_llm_engine, tensorrt_llm, llama_cpp, ctranslate2, echo"]),
        ("name: x\nengine: echo", ["2:9 `engine` must be a mapping, not the text 'echo' | write `engine: {kind: echo}`"]),
        (ECHO + "hardware: a100-40gb\nserving: triton", [
            "3:11 `hardware` must be a mapping, not the text 'a100-40gb' | write `hardware: {gpu: a100-40gb}`",
            "4:10 `serving` must be a mapping, not the text 'triton' | write `serving: {server: triton}`"]),
        ("name: x\nengine: {kind: llama_cpp}\nweights: file://a b", ["3:10 `weights` must be a mapping, not the text 'file://a b' | "]),
        ("name: x\nengine: {kind: llama_cpp}\nweights: file://model.gguf", [
            "3:10 `weights` must be a mapping, not the text 'file://model.gguf' | write `weights: {source: file://model.gguf}`"]),
        ("name: x\nengine:", ["2:8 `engine` must be a mapping, not nothing | "]),
        # names
        ("name: Hello\nengine: {kind: echo}", ["1:7 `name` must be lower-case letters and digits, joined by `-`, `_` or `.`, not 'Hello' | "]),
        ("name: " + "x" * 64 + "\nengine: {kind: echo}", ["1:7 `name` must be at most 63 characters, not 64 | "]),
        ("name: 8\nengine: {kind: echo}", ['1:7 `name` must be text, not the number 8 | put it in quotes: "8"']),
        # types
        (ECHO + "serving: {port: '80'}", ["3:17 `serving.port` must be a whole number, not the text '80' | write it without quotes: 80"]),
        (ECHO + "serving: {port: 80.0}", ["3:17 `serving.port` must be a whole number, not the number 80.0 | "]),
        (ECHO + "serving: {port: true}", ["3:17 `serving.port` must be a whole number, not the boolean true | "]),
        (ECHO + "serving: {port: null}", ["3:17 `serving.port` must be a whole number, not nothing | "]),
        (ECHO + "serving: {port: 0}", ["3:17 `serving.port` must be at least 1, not 0 | "]),
        (ECHO + "serving: {port: 65536}", ["3:17 `serving.port` must be at most 65535, not 65536 | "]),
        (ECHO + "serving: []", ["3:1 `serving` must be a mapping, not a list | "]),
        (ECHO + "image: {system_packages: curl}", ["3:26 `image.system_packages` must be a list, not the text 'curl' | write [curl]"]),
        (ECHO + "image: {tag: 1.10}", ['3:14 `image.tag` must be text, not the number 1.10 | put it in quotes: "1.10"']),
        (ECHO + "image: {env: {A: yes, B: true}}", ['3:26 `image.env.B` must be text, not the boolean true | put it in quotes: "true"']),
        (ECHO + "image: {env: [A]}", ["3:9 `image.env` must be a mapping of names to texts, not a list | "]),
        ("name: x\nengine: {kind: llama_cpp, version: 1.2}\nweights: {source: file://m}", [
            '2:36 `engine.version` must be text, not the number 1.2 | put it in quotes: "1.2"']),
        ("name: x\nengine: {kind: llama_cpp, version: 1.x}\nweights: {source: file://m}", [
            "2:36 `engine.version` must be an exact version such as 1.2.1, not '1.x' | "]),
        # numbers with a fraction, limits that may be none, origins
        (VLLM.replace("vllm}", "vllm, gpu_memory: 0}"), ["2:34 `engine.gpu_memory` must be more than 0, not 0 | "]),
        (VLLM.replace("vllm}", "vllm, gpu_memory: 1.5}"), ["2:34 `engine.gpu_memory` must be at most 1.0, not 1.5 | "]),
        (VLLM.replace("vllm}", "vllm, gpu_memory: '1'}"), ["2:34 `engine.gpu_memory` must be a number, not the text '1' | write it without quotes: 1"]),
        (VLLM.replace("vllm}", "vllm, gpu_memory: 90%}"), [
            "2:34 `engine.gpu_memory` must be a number, not the text '90%' | write it as a share of 1: 0.9"]),
        (VLLM.replace("vllm}", "vllm, gpu_memory: 92}"), [
            "2:34 `engine.gpu_memory` must be at most 1.0, not 92 | it is a share of 1: write 0.92"]),
        (VLLM.replace("vllm}", "vllm, context_length: 8k}"), [
            "2:38 `engine.context_length` must be a whole number, not the text '8k' | write all its digits, such as 8192"]),
        (ECHO + "serving: {drain_seconds: 30s, max_body: 2MB}", [
            "3:26 `serving.drain_seconds` must be a whole number, not the text '30s' | write the number alone: the key says in what it counts",
            "3:41 `serving.max_body` must be a whole number, not the text '2MB' | write all its digits, such as 2097152"]),
        (ECHO + "port: 3000\nimage: {gpu: l4, quantization: awq}", [
            "3:1 unknown key 'port' | it belongs into `serving`",
            "4:9 unknown key 'gpu' in `image` | it belongs into `hardware`",
            "4:18 unknown key 'quantization' in `image` | it belongs to the top of the spec, under no other key"]),
        (VLLM.replace("vllm}", "vllm, context_length: 32_768}"), [
            "2:38 `engine.context_length` must be a whole number, not the text '32_768' | write 32768"]),
        (VLLM.replace("vllm}", "vllm, context_length: long}"), [
            "2:38 `engine.context_length` must be a whole number, not the text 'long' | "]),
        (ECHO + "image: {system_packages: {curl: '1'}}", [
            "3:9 `image.system_packages` must be a list, not a mapping | start each of its items with `- `, or put what is there into [ ]"]),
        (VLLM.replace("vllm}", "vllm, max_lora_rank: 24}"), [
            "2:37 `engine.max_lora_rank` must be one of 8, 16, 32, 64, 128, 256, 320, 512, not the number 24 | "]),
        (VLLM.replace("vllm}", "vllm, max_lora_rank: '16'}"), [
            "2:37 `engine.max_lora_rank` must be one of 8, 16, 32, 64, 128, 256, 320, 512, not the text '16' | write it without quotes: 16"]),
        (ECHO + "serving: {total_seconds: 0}", ["3:26 `serving.total_seconds` must be at least 1, not 0 | "]),
        (ECHO + "serving: {max_body: null}", ["3:21 `serving.max_body` must be a whole number, not nothing | "]),
        (ECHO + "serving: {cors_origins: 'https://a.example'}", [
            "3:25 `serving.cors_origins` must be a list, not the text 'https://a.example' | write [https://a.example]"]),
        (ECHO + "serving: {cors_origins: ['https://a.example/', ftp://a, '*.a.example']}", [
            "3:26 `serving.cors_origins[0]` must be an origin such as https://app.example.com, or *, not 'https://a.example/' | ",
            "3:48 `serving.cors_origins[1]` must be an origin such as https://app.example.com, or *, not 'ftp://a' | ",
            "3:57 `serving.cors_origins[2]` must be an origin such as https://app.example.com, or *, not '*.a.example' | "]),
        # words
        (ECHO + "quantization: int3", ["3:15 unknown quantization 'int3' | did you mean `int8`? it can be: none, int8, int4, fp8, awq, gptq, nf4, gguf"]),
        (ECHO + "quantization: 8", ["3:15 `quantization` must be one of none, int8, int4, fp8, awq, gptq, nf4, gguf, not the number 8 | "]),
        ("name: x\nengine: {kind: llama_cpp, flash_attention: true}\nweights: {source: file://m}", [
            "2:44 `engine.flash_attention` must be one of auto, on, off, not the boolean true | "]),
        # weights
        ("name: x\nengine: {kind: llama_cpp}", ["1:1 `weights` is missing: the engine llama_cpp needs weights | add `weights: {source: file://PATH}`"]),
        (ECHO + "weights: {source: file://m}", ["3:1 `weights` is not for the engine echo, which has none | remove `weights`"]),
        (LLAMA.replace("file://m.gguf", "oci://a/b"), [
            ("3:19 `weights.source` cannot be oci:// yet: this version of packager does not read it | "
            "write file://PATH (a relative PATH starts at the spec's folder), hf://OWNER/NAME, https://HOST/PATH, s3://BUCKET/PREFIX")]),
        (LLAMA.replace("file://m.gguf", "ftp://a/b"), [
            ("3:19 `weights.source` has an unknown scheme 'ftp' | "
            "write file://PATH (a relative PATH starts at the spec's folder), hf://OWNER/NAME, https://HOST/PATH, s3://BUCKET/PREFIX")]),
        (LLAMA.replace("file://m.gguf}", "hf://a, revision: a..b}"), [
            "3:19 `weights.source` must name a repository of the hub, not 'a' | write hf://OWNER/NAME, or hf://OWNER/NAME/FOLDER for a folder within",
            "3:37 `weights.revision` must be a branch, a tag or a commit, not 'a..b' | the hub lists them under `Files and versions`"]),
        (LLAMA.replace("m.gguf}", "m.gguf, revision: 1234567}"), [
            '3:44 `weights.revision` must be text, not the number 1234567 | put it in quotes: "1234567"']),
        (LLAMA.replace("file://m.gguf", "m.gguf"), ["3:19 `weights.source` must name its scheme, not just 'm.gguf' | write file://m.gguf"]),
        (LLAMA.replace("file://m.gguf", "file://"), ["3:19 `weights.source` names no path | write file://PATH (a relative PATH starts at the spec's folder)"]),
        (LLAMA.replace("m.gguf}", "m.gguf, ship: on_load}"), [
            ("3:40 `weights.ship` cannot be on_load: the container cannot find 'file://m.gguf' relative to a spec | "
            "write `ship: in_image`, or an absolute file:///PATH that the container mounts")]),
        (LLAMA.replace("m.gguf}", "m.gguf, file: ../x, chat_template: /etc/passwd, include: []}"), [
            "3:40 `weights.file` must be a relative path with forward slashes and without `.` or `..` parts, not '../x' | ",
            "3:61 `weights.chat_template` must be a relative path with forward slashes and without `.` or `..` parts, not '/etc/passwd' | ",
            "3:74 `weights.include` must not be empty | remove it, or write at least one item"]),
        (VLLM.replace("m.gguf}", "m, adapters: [{name: x, source: file://a}]}"), [
            "3:1 `weights` has an adapter named 'x', like the model | give it another name"]),
        (VLLM.replace("m.gguf}", "m, adapters: [{name: a, source: file://a}, {name: a, source: file://b}]}"), [
            "3:29 `weights.adapters` has two adapters named 'a' | give one of them another name"]),
        (VLLM.replace("m.gguf}", "m, adapters: [{name: A_, sorce: hf://a}]}"), [
            ("3:40 `weights.adapters[0].source` is missing | add `source`: where the adapter is, as in `weights.source`: a folder "
            "with adapter_config.json and adapter_model.safetensors"),
            "3:47 `weights.adapters[0].name` must be lower-case letters and digits, joined by `-`, `_` or `.`, not 'A_' | ",
            "3:51 unknown key 'sorce' in `weights.adapters[0]` | did you mean `source`?"]),
        (VLLM.replace("file://m.gguf}", "'file:///m', adapters: [{name: a, source: file://a}], ship: on_load}"), [
            ("3:79 `weights.ship` cannot be on_load: the container cannot find 'file://a' relative to a spec | "
            "write `ship: in_image`, or an absolute file:///PATH that the container mounts")]),
        (VLLM.replace("file://m.gguf}", "'file:///m', tokenizer: file://t, ship: on_load}"), [
            ("3:59 `weights.ship` cannot be on_load: the container cannot find 'file://t' relative to a spec | "
            "write `ship: in_image`, or an absolute file:///PATH that the container mounts")]),
        (VLLM.replace("m.gguf}", "m, tokenizer: a/b, tokenizer_revision: main}"), [
            ("3:40 `weights.tokenizer` must name its scheme, not just 'a/b' | "
            "write hf://a/b for the hub's, or file://a/b for a folder")]),
        (VLLM.replace("m.gguf}", "m, tokenizer: file://t, tokenizer_revision: main}"), [
            ("3:70 `weights.tokenizer_revision` is for hf:// alone: file:// has no revisions | "
            "remove it: the lock pins every file by its sha256")]),
        (VLLM.replace("m.gguf}", "m, tokenizer_revision: main}"), [
            ("3:49 `weights.tokenizer_revision` is the revision of a tokenizer that is not named | "
            "name it in `weights.tokenizer`, or remove this")]),
        (VLLM.replace("m.gguf}", "m, trusted_code: {../x.py: AB, a.py: 12}}"), [
            "3:44 `weights.trusted_code.../x.py` must be a relative path with forward slashes and without `.` or `..` parts, not '../x.py' | ",
            "3:53 `weights.trusted_code.../x.py` must be a sha256 of 64 lower-case hexadecimal digits, not 'AB' | ",
            '3:63 `weights.trusted_code.a.py` must be text, not the number 12 | put it in quotes: "12"']),
        # hardware
        (ECHO + "hardware: {gpu: A100}", ["3:17 `hardware.gpu` must be a lower-case GPU name such as a100-40gb, not 'A100' | "]),
        (ECHO + "hardware: {count: 2}", ["3:19 `hardware.count` counts GPUs, but no GPU is named | add `gpu`, or remove `count`"]),
        # the image
        (ECHO + "image: {repository: 'x.io/a:1'}", [
            ("3:21 `image.repository` must be a registry and a path without tag, such as registry.example.com/team, not 'x.io/a:1' | "
            "the tag has its own field: `image.tag`")]),
        (ECHO + "image: {tag: 'a b'}", ["3:14 `image.tag` must be a tag: letters, digits, `.`, `_` and `-`, not 'a b' | "]),
        (ECHO + "image: {base: {kind: registri}}", ["3:22 unknown base 'registri' | did you mean `registry`? the kinds are: debian, registry, layout"]),
        (ECHO + "image: {base: {kind: registry, image: 'docker://Foo'}}", [
            "3:39 `image.base.image` must be an image reference, not 'docker://Foo' | write HOST/PATH:TAG or HOST/PATH@sha256:DIGEST, the path in lower case"]),
        (ECHO + "image: {system_packages: [curl, 'a;b', --x]}", [
            "3:33 `image.system_packages[1]` must be a Debian package name, without version or options, not 'a;b' | ",
            "3:40 `image.system_packages[2]` must be a Debian package name, without version or options, not '--x' | "]),
        (ECHO + "image: {python_packages: [--pre, 'a @ https://x/a.whl', '!', 'six==1']}", [
            "3:27 `image.python_packages[0]` must be a requirement, not the option '--pre' | write a requirement such as `pillow>=11,<12`",
            "3:34 `image.python_packages[1]` must not name an address: 'a @ https://x/a.whl' | put the wheel in an index, and name its version",
            "3:57 `image.python_packages[2]` must be a requirement such as `pillow>=11`, not '!' | "]),
        (ECHO + "image: {env: {A-B: x}, labels: {'a b': y}}", [
            "3:15 `image.env.A-B` must be a name of letters, digits and `_`, not 'A-B' | ",
            "3:33 `image.labels.a b` must be a label name, not 'a b' | "]),
        # characters
        (ECHO + 'image: {env: {A: "x\\ny"}}', ["3:18 `image.env.A` must not hold a line break | write it on one line"]),
        (ECHO + "description: |\n  two\n  lines\n", ["3:14 `description` must not hold a line break | write it on one line"]),
        (ECHO + 'description: "\\e[31m"', ["3:14 `description` must not hold the control character U+001B | remove it"]),
        (ECHO + 'description: "\\ud800"', ["3:14 `description` must not hold the control character U+D800 | remove it"]),
        (ECHO + 'description: "a\\tb"', ["3:14 `description` must not hold a tab | write spaces"]),
        (ECHO + '"\\e\\u202e": 1', ["3:1 unknown key '\\u001b\\u202e' | the keys here are: name, description, engine, weights, quantization, conversion, hardware, serving, image"]),
        # what could not be read is not judged, all else is
        (ECHO + "weights: &a {x: *a}\nserving: {port: 'x'}", None),
        (ECHO + "serving: {port: 0x50, max_queue: -1}", [
            "3:17 '0x50' is a different number to different readers of YAML | put it in quotes (\"0x50\") where text is meant; else write a decimal number",
            "3:34 `serving.max_queue` must be at least 0, not -1 | "]),
        ("", ["1:1 the file is empty | start with `name:` and `engine:`; `packager init NAME` writes an example"]),
        ("- a", ["1:1 a spec is a mapping of keys to values | start with `name:` and `engine:`; `packager init NAME` writes an example"]),
    ],
)  # fmt: skip
def test_refusals(folder, text, expected):
    found = problems(folder, text)
    if expected is None:
        assert [line.split(" | ")[0] for line in found] == [
            "3:1 `weights.source` is missing",
            "3:10 anchors and aliases (`&` and `*`) are not allowed",
            "4:17 `serving.port` must be a whole number, not the text 'x'",
        ]
    else:
        assert found == expected


def test_paths_that_are_no_spec(folder):
    (folder / "empty").mkdir()
    (folder / "odd").mkdir()
    (folder / "odd" / "packager.yaml").mkdir()
    mend = "give a folder that holds one, a file, or a name from `packager catalog`; `packager init NAME` makes one"
    for path, where, what in [
        ("none.yaml", "none.yaml", "there is no spec here"),
        ("empty", "empty/packager.yaml", "there is no spec here"),
        ("odd", "odd/packager.yaml", "this is not a regular file"),
        ("/dev/zero", "/dev/zero", "this is not a regular file"),
        ("a\0b", "a\0b", "there is no spec here"),
    ]:
        with pytest.raises(SpecError) as caught:
            load_spec(Path(path))
        (found,) = caught.value.problems
        if found.what == "there is no spec here" and "\0" not in path:
            assert found.mend == mend
        if "\0" not in path:
            assert (found.where[-len(where) :], found.what) == (where, what)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=120))
def test_any_bytes_are_a_spec_or_a_spec_error(tmp_path, data):
    path = tmp_path / "packager.yaml"
    for content in (data, ECHO.encode() + data):
        path.write_bytes(content)
        with contextlib.suppress(SpecError):
            load_spec(path)


KEY = st.sampled_from(
    ["kind", "source", "port", "image", "base", "env", "suite", "path", "gpu", "count", "echo", "[key]", ""]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 70_000) | st.floats() | st.sampled_from(["", "echo", "x", "debian", "a\nb"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*ModelSpec.model_fields, "zzz"]), VALUE, max_size=5))
def test_any_values_get_words_of_ours(value):
    from packager.spec.load import check
    from packager.spec.parse import Document

    document = Document(value=value)
    if check(document) is None:
        for _, problem in document.problems:
            assert "input should be" not in problem.what.lower()
            assert not problem.what.endswith(".")


def strings_without_grammar(model: type[BaseModel]) -> list[str]:
    """Fields whose schema has a string that is neither an enumeration nor bounded by a Grammar."""
    loose = []
    for name, field in model.model_json_schema()["properties"].items():
        queue = [field]
        while queue:
            schema = queue.pop()
            if schema.get("type") == "string" and not {"enum", "const", "maxLength"} & set(schema):
                loose.append(f"{model.__name__}.{name}")
            queue += list(schema.get("anyOf", []))
            queue += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return loose


def all_models(model: type[BaseModel]) -> list[type[BaseModel]]:
    inner = [part for field in model.model_fields.values() for part in models_in(field.annotation)]
    return [model, *(found for part in inner for found in all_models(part))]


def test_no_string_field_escapes_the_grammar():
    models = all_models(Root)
    assert EchoSpec in models
    assert [loose for model in models for loose in strings_without_grammar(model)] == []
    with pytest.raises(Exception, match="must not hold a line break"):
        Grammar().validate("a\nb")
