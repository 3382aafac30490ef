"""Constants that decide an image's bytes do not change unnoticed."""

from dataclasses import fields, replace

import pytest

from packager.image.envelope import ENVELOPE, Envelope
from packager.lock.drift import LAYER_FORMAT

PINNED = (2, "e32a3a377c9dea110ae18689aa357474bb56ded08ec85187fae2caa8a50dcde6")
"""LAYER_FORMAT and the envelope's digest under it."""

ADVICE = """
The envelope is (layer format {found[0]}, digest {found[1]}),
but this test pins (layer format {pinned[0]}, digest {pinned[1]}).

Everyone's images get other digests, and stores remember the digests of the old layers. So one of:
- bump:   the change is wanted. Raise LAYER_FORMAT in packager/lock/drift.py by one, write both numbers above into
          PINNED, run `pytest tests/golden --update-golden`, and say in docs/changelog that digests change.
- revert: the change was not meant.
- fix:    the constant changes no byte of an image. Then it does not belong into the envelope.
"""


def test_the_envelope_is_the_pinned_one():
    found = (LAYER_FORMAT, ENVELOPE.digest())
    assert found == PINNED, ADVICE.format(found=found, pinned=PINNED)


@pytest.mark.parametrize("name", [field.name for field in fields(Envelope)])
def test_every_field_counts(name):
    value = getattr(ENVELOPE, name)
    other = value + 1 if isinstance(value, int) else value + value[:1]
    assert replace(ENVELOPE, **{name: other}).digest() != ENVELOPE.digest()


def test_the_layer_format_is_the_locks():
    assert ENVELOPE.layer_format == LAYER_FORMAT


def test_environment_is_sorted_and_leads_to_the_one_writable_folder():
    names = [name for name, _ in ENVELOPE.env]
    assert names == sorted(set(names))
    env = dict(ENVELOPE.env)
    cache = f"/{ENVELOPE.cache}"
    assert env["HOME"] == env["PACKAGER_CACHE"] == cache
    assert env["BENTOML_HOME"].startswith(env["TMPDIR"])
    written = ("HF_HOME", "PYTHONPYCACHEPREFIX", "TRITON_CACHE_DIR", "XDG_CACHE_HOME")
    assert all(env[name].startswith(cache) for name in written)
    assert env["PYTHONPATH"] == f"/{ENVELOPE.app}/packages"
