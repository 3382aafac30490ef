"""Checks that need more than one part of the spec, before anything is asked of anyone."""

from ..errors import Problem, SpecError
from ..recipes import RECIPES
from ..spec.image import DebianBase
from ..spec.load import SpecFile


def check(file: SpecFile) -> None:
    """Raise SpecError with everything in the spec that this engine or base cannot do."""
    problems = (*_quantization(file), *_concurrency(file), *_base(file))
    if problems:
        raise SpecError.collect(problems)


def _quantization(file: SpecFile) -> tuple[Problem, ...]:
    spec = file.spec
    can = RECIPES[spec.engine.kind].quantizations
    if spec.quantization in can:
        return ()
    mend = (
        f"use one of: {', '.join(can)}" if len(can) > 1 else "leave it out: this engine takes the weights as they are"
    )
    return (
        Problem(
            f"the engine {spec.engine.kind} cannot quantize to {spec.quantization}", file.where("quantization"), mend
        ),
    )


def _concurrency(file: SpecFile) -> tuple[Problem, ...]:
    spec = file.spec
    most = RECIPES[spec.engine.kind].most_requests
    if most is None or spec.serving.max_concurrency <= most:
        return ()
    return (
        Problem(
            f"the engine {spec.engine.kind} runs at most {most} requests at once, not {spec.serving.max_concurrency}",
            file.where("serving", "max_concurrency"),
            f"write {most} or less; further requests wait in the queue (`serving.max_queue`)",
        ),
    )


def _base(file: SpecFile) -> tuple[Problem, ...]:
    image = file.spec.image
    if image.base is None or isinstance(image.base, DebianBase) or not image.system_packages:
        return ()
    return (
        Problem(
            f"system packages cannot be added to a base of kind {image.base.kind}",
            file.where("image", "system_packages"),
            "take a base that has them, or `base: {kind: debian}`",
        ),
    )
