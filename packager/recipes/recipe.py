"""What one engine needs on the host side, as facts: nothing here opens, runs or downloads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Recipe:
    """The facts of one engine.

    `distribution` is its Python distribution, or None when the engine ships with the runtime.
    `default_version` is the version packager was tested with; a spec may pin another.
    `plugins` maps a quantization to the further requirements it needs.
    `companions` are further requirements it always has.
    `weights` are the file name endings the engine opens; empty when it takes no weights. With `folder` it opens
    the weights' folder, which needs every one of them at its top: a name, or a file that ends so (`.safetensors`).
    `data_files` are files of this format that are data, though others of their name are pickles.
    `own_code` says that it can run code which the weights bring, `adapters` that it serves LoRA adapters.
    `most_requests` is how many requests the engine can run at once, where it has a limit.
    `system_packages` are Debian packages the engine loads at run time.
    """

    engine: str
    distribution: str | None
    default_version: str
    weights: tuple[str, ...]
    quantizations: tuple[str, ...] = ("none",)
    most_requests: int | None = None
    system_packages: tuple[str, ...] = ()
    plugins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    folder: bool = False
    data_files: tuple[str, ...] = ()
    own_code: bool = False
    adapters: bool = False

    def entry(self, paths: Sequence[str], chosen: str | None) -> str | None:
        """What of the weights the engine opens: `chosen`, else the only file it can open (`.`: the whole folder).

        None when there is no such file, or several.
        """
        if self.folder:
            return None if self.lacking(paths) else "."
        fitting = [path for path in paths if path.endswith(self.weights)]
        return chosen or (fitting[0] if len(fitting) == 1 else None)

    def lacking(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of `weights` that are not at the top of a folder with these paths."""
        top = [path for path in paths if "/" not in path]
        return tuple(need for need in self.weights if not any(_is(path, need) for path in top))

    def requirements(self, version: str | None, quantization: str) -> tuple[str, ...]:
        """PEP 508 requirements of the engine at `version` (None: the tested default)."""
        if self.distribution is None:
            return ()
        pinned = f"{self.distribution}=={version or self.default_version}"
        return (pinned, *self.companions, *self.plugins.get(quantization, ()))


def _is(name: str, need: str) -> bool:
    return name == need or (need.startswith(".") and name.endswith(need))
