"""The models seen from outside: which fields there are at a place of the spec."""

from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from .model import ModelSpec
from .parse import Keys

Model = type[BaseModel]


def models_in(annotation: Any) -> tuple[Model, ...]:
    """The models that a value of this annotation may be; several for a tagged union, none for plain values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if get_origin(annotation) is Literal:
        return ()
    return tuple(model for part in get_args(annotation) for model in models_in(part))


def tag_of(model: Model) -> str:
    """The value of `kind` that chooses `model` in its union."""
    return str(get_args(model.model_fields["kind"].annotation)[0])


def locate(loc: Sequence[str | int]) -> tuple[Keys, tuple[Model, ...]]:
    """A location of pydantic's as keys of the file, and the models that stand at the place.

    It puts the tag of a union and the mark `[key]` into its locations; files have neither.
    """
    keys: list[str | int] = []
    models: tuple[Model, ...] = (ModelSpec,)
    for item in loc:
        if isinstance(item, int):
            keys.append(item)  # an item of a list is what the list's annotation says
        elif len(models) > 1:
            models = tuple(model for model in models if tag_of(model) == item)
        elif models and item in models[0].model_fields:
            keys.append(item)
            models = models_in(models[0].model_fields[str(item)].annotation)
        elif item != "[key]":
            keys.append(item)
            models = ()
    return tuple(keys), models
