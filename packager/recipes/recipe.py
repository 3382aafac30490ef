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
    the folder that such a file lies in, and needs one at the top.
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

    def entry(self, paths: Sequence[str], chosen: str | None) -> str | None:
        """What of the weights the engine opens: `chosen`, else the only file it can open (`.`: the whole folder).

        None when there is no such file, or several.
        """
        if self.folder:
            return chosen or ("." if any(path in self.weights for path in paths) else None)
        fitting = [path for path in paths if path.endswith(self.weights)]
        return chosen or (fitting[0] if len(fitting) == 1 else None)

    def requirements(self, version: str | None, quantization: str) -> tuple[str, ...]:
        """PEP 508 requirements of the engine at `version` (None: the tested default)."""
        if self.distribution is None:
            return ()
        pinned = f"{self.distribution}=={version or self.default_version}"
        return (pinned, *self.companions, *self.plugins.get(quantization, ()))
