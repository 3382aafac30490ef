"""The wheels of the image and the requirements for everywhere else: the closure of what the spec requires."""

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import Version

from ..errors import ResolveError
from ..facts import BaseFacts
from ..spec.model import ModelSpec
from ..wheels.builds import TWICE_BUILT, cpu_builds, is_cpu_build
from ..wheels.resolve import resolve_image, resolve_universal
from ..wheels.wheel import Wheel
from .drift import python_overrides, python_requirements
from .tools import Tools

PYTHON_FLOOR = "3.11"
"""The oldest Python that the container side runs on; requirements.txt is good from here on."""


@dataclass(frozen=True, slots=True)
class Closure:
    """`wheels` are the image's, `requirements` the lines of requirements.txt."""

    wheels: tuple[Wheel, ...]
    requirements: tuple[str, ...]


def resolve_closure(spec: ModelSpec, facts: BaseFacts, tools: Tools) -> Closure:
    """The closure of the spec's requirements on a base with these facts. Fetches no wheel.

    A spec that names a GPU never gets a build without CUDA, and one that names none gets it wherever there is one.
    Raises ResolveError.
    """
    choose = _for_gpu if spec.hardware.gpu else _for_cpu
    wheels, everywhere = choose(spec, facts, tools)
    text = resolve_universal(
        python_requirements(spec),
        python=PYTHON_FLOOR,
        constraints=everywhere,
        overrides=python_overrides(spec),
        run=tools.run,
    )
    return Closure(wheels, tuple(text.splitlines()))


def _for_gpu(spec: ModelSpec, facts: BaseFacts, tools: Tools) -> tuple[tuple[Wheel, ...], list[str]]:
    """The wheels, none of them built for CPU alone, and what keeps such builds out elsewhere too."""
    without: list[str] = []
    wheels = _image(spec, facts, tools, without)
    while found := [f"{wheel.name}!={wheel.version}" for wheel in wheels if is_cpu_build(wheel)]:
        without += found
        wheels = _image(spec, facts, tools, without)
    both = [(wheel.name, Version(wheel.version).public) for wheel in wheels if wheel.name in TWICE_BUILT]
    same = [constraint for name, version in both for constraint in (f"{name}=={version}", f"{name}!={version}+cpu")]
    return wheels, [*without, *same]


def _for_cpu(spec: ModelSpec, facts: BaseFacts, tools: Tools) -> tuple[tuple[Wheel, ...], list[str]]:
    """The wheels, built for CPU where that is to be had, and what keeps other platforms at the same versions.

    Those are named without their label: uv then takes it where such a wheel fits, and the index's own elsewhere.
    """
    wheels = _image(spec, facts, tools, ())
    for name in TWICE_BUILT:
        if any(wheel.name == name and not is_cpu_build(wheel) for wheel in wheels):
            builds = [f"{name}=={version}" for version in cpu_builds(name, facts, run=tools.run)]
            better = _first_that_fits(spec, facts, tools, builds)
            if better is None:
                tools.say(_costs_gigabytes(name, wheels))
            wheels = better or wheels
    return wheels, [f"{wheel.name}=={Version(wheel.version).public}" for wheel in wheels if wheel.name in TWICE_BUILT]


def _first_that_fits(
    spec: ModelSpec, facts: BaseFacts, tools: Tools, constraints: Sequence[str]
) -> tuple[Wheel, ...] | None:
    for constraint in constraints:
        try:
            return _image(spec, facts, tools, (constraint,))
        except ResolveError:  # the requirements do not allow this build: the next, or the one without a label
            continue
    return None


def _image(spec: ModelSpec, facts: BaseFacts, tools: Tools, constraints: Sequence[str]) -> tuple[Wheel, ...]:
    requirements, overrides = python_requirements(spec), python_overrides(spec)
    return resolve_image(requirements, facts, constraints=constraints, overrides=overrides, run=tools.run)


def _costs_gigabytes(name: str, wheels: Sequence[Wheel]) -> str:
    total = sum(wheel.size for wheel in wheels) / 1e9
    return (
        f"no build of {name} for CPU is in reach: the image gets the one with CUDA, {len(wheels)} wheels of {total:.1f} GB "
        "together. Point pip at PyTorch's CPU wheels (PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), or name `hardware.gpu`"
    )
