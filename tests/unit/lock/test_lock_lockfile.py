"""The lock's file: the same value gives the same bytes, and nothing but a whole lock of this format is read."""

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.compiled import description
from fakes.locks import FACTS, VLLM, make_lock, make_spec

from packager.errors import LockError
from packager.lock.lockfile import ImageBaseLock, WeightsLock, parse_lock

ROOT = Path(__file__).parents[3]
WEIGHTS = {"weights": {"source": "file://model"}}
TOKENIZER = {"engine": {"kind": "vllm"}, "weights": {"source": "file://model", "tokenizer": "hf://a/b"}}
LOCKS = {
    "debian": make_lock(make_spec()),
    "weights": make_lock(make_spec(**WEIGHTS)),
    "adapters": make_lock(make_spec(**VLLM)),
    "tokenizer": make_lock(make_spec(**TOKENIZER)),
    "registry": make_lock(make_spec(), base=ImageBaseLock("registry", "sha256:" + "d" * 64)),
    "layout": make_lock(make_spec(), base=ImageBaseLock("layout", "sha256:" + "e" * 64), wheels=(), contests=()),
    "base in the spec": make_lock(make_spec(image={"base": {"kind": "debian", "suite": "bookworm"}})),
}


@pytest.mark.parametrize("name", LOCKS)
def test_reading_and_writing_again_changes_nothing(name):
    lock = LOCKS[name]
    data = lock.to_bytes()
    again = parse_lock(data, where="packager.lock")
    assert again == lock
    assert again.to_bytes() == data


def test_an_engines_description_is_whole():
    """What the engine was compiled for is read of a lock again and again: by gates, plan and the package."""
    lock = make_lock(make_spec(**WEIGHTS), weights=WeightsLock("hf://a/b", "", (), compiled=description()))
    assert parse_lock(lock.to_bytes(), where="packager.lock") == lock
    value = json.loads(lock.to_bytes())
    del value["weights"]["compiled"]["limits"]
    with pytest.raises(LockError, match=r"the lock is damaged: weights\.compiled: limits is missing"):
        parse_lock(json.dumps(value).encode(), where="packager.lock")


@pytest.mark.parametrize("name", LOCKS)
def test_the_order_of_mappings_does_not_count(name):
    lock = LOCKS[name]
    shuffled = replace(
        lock,
        inputs=dict(reversed(lock.inputs.items())),
        facts=replace(lock.facts, installed=dict(reversed(lock.facts.installed.items()))),
    )
    assert shuffled.to_bytes() == lock.to_bytes()


def test_the_hash_seed_and_locale_do_not_count():
    script = "from fakes.locks import *; import sys; sys.stdout.buffer.write(make_lock(make_spec()).to_bytes())"
    found = set()
    for seed, locale in (("0", "C"), ("1", "C.UTF-8"), ("2", "POSIX")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        found.add(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout)
    assert found == {make_lock(make_spec()).to_bytes()}


def test_it_is_text_that_people_can_diff():
    text = LOCKS["weights"].to_bytes().decode()
    assert text.startswith('{\n  "format": 5,\n  "layer_format": ')
    assert text.endswith("}\n")
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_it_names_no_host_and_no_path_of_this_machine():
    value = json.loads(LOCKS["registry"].to_bytes())
    assert value["base"] == {"kind": "registry", "digest": "sha256:" + "d" * 64}
    assert "://" not in LOCKS["debian"].to_bytes().decode()


def test_the_kind_of_base():
    assert [lock.base.kind for lock in LOCKS.values()] == [*["debian"] * 4, "registry", "layout", "debian"]


@pytest.mark.parametrize("found", [0, 1, 3, "one", None])
def test_another_format_is_refused_with_the_next_step(found):
    value = json.loads(LOCKS["debian"].to_bytes()) | {"format": found}
    shown = json.dumps(found)
    with pytest.raises(LockError, match=f"has format {shown}; this packager reads format 5") as caught:
        parse_lock(json.dumps(value).encode(), where="hello/packager.lock")
    (problem,) = caught.value.problems
    assert problem.where == "hello/packager.lock"
    assert "packager lock" in problem.mend


def test_the_order_of_adapters_does_not_count():
    one, two = ({"name": name, "source": f"file://{name}"} for name in "ab")
    specs = [
        make_spec(**VLLM | {"weights": {"source": "file://m", "adapters": each}}) for each in ([one, two], [two, one])
    ]
    assert make_lock(specs[0]).to_bytes() == make_lock(specs[1]).to_bytes()


@pytest.mark.parametrize("key", sorted(json.loads(LOCKS["weights"].to_bytes())))
def test_a_lock_without_one_of_its_parts_is_refused(key):
    value = json.loads(LOCKS["weights"].to_bytes())
    del value[key]
    with pytest.raises(LockError, match="has format null" if key == "format" else f"{key} is missing"):
        parse_lock(json.dumps(value).encode(), where="packager.lock")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("wheels", 0, "url"), "x"),
        (("wheels", 0, "sha256"), None),
        (("base", "packages", 0, "sha256"), 7),
        (("base", "release"), []),
        (("weights", "files", 0, "size"), "70"),
        (("facts", "python"), 3.11),
        (("requirements", 0), 1),
        (("contests", 0, "losers"), 1),
        (("inputs",), []),
        (("layer_format",), "1"),
        (("layer_format",), True),
        (("base", "kind"), "layout"),
        (("base",), {"kind": "debian", "digest": "sha256:x"}),
        (("base",), None),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(path, value):
    whole = json.loads(LOCKS["weights"].to_bytes())
    *parents, last = path
    at = whole
    for key in parents:
        at = at[key]
    at[last] = value
    with pytest.raises(LockError):
        parse_lock(json.dumps(whole).encode(), where="packager.lock")


def test_damaged_bytes_are_never_taken_for_a_lock():
    """Cut, flipped or merged bytes: a LockError or, where the damage is legible, another lock; never another error."""
    data = LOCKS["weights"].to_bytes()
    chance = random.Random(7)
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(broken))
            broken[at : at + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4))
        with suppress(LockError):
            parse_lock(bytes(broken), where="packager.lock")


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"7", b'"format"', b"\xff\xfe", b"<<<<<<< ours\n{}"])
def test_what_is_no_lock_at_all(data):
    with pytest.raises(LockError):
        parse_lock(data, where="packager.lock")


def test_facts_are_what_was_locked():
    assert parse_lock(LOCKS["debian"].to_bytes(), where="x").facts == FACTS
