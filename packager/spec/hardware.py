"""Hardware: what the container will run on. Recipes check engines and quantizations against it."""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from .grammar import Grammar, Strict, problem


class HardwareSpec(Strict):
    """What the container runs on; without a GPU, the CPU."""

    gpu: Annotated[str, Grammar(r"[a-z0-9]+(?:-[a-z0-9]+)*", "a lower-case GPU name such as a100-40gb", 63)] | None = (
        None
    )
    """GPU by its lower-case name, such as `a100-40gb`."""
    count: Annotated[int, Field(ge=1, le=64)] | None = None
    """Number of GPUs; 1 when a GPU is named."""

    @property
    def gpus(self) -> int:
        """Number of GPUs; 0 without one."""
        return 0 if self.gpu is None else self.count or 1

    @field_validator("count", mode="after")
    @classmethod
    def _count_needs_gpu(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and info.data.get("gpu", "") is None:
            raise problem("counts GPUs, but no GPU is named", "add `gpu`, or remove `count`")
        return count
