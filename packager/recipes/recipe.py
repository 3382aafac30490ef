"""What one engine needs on the host side, as facts: nothing here opens, runs or downloads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Vendor:
    """An engine that no package index has: it is the Python distribution `distribution` of images such as `image`."""

    distribution: str
    image: str


@dataclass(frozen=True, slots=True)
class Format:
    """One number format: what it needs, and who says so.

    `name` is a word of the spec, or what weights call their own quantization: `METHOD`, `METHOD:KIND`.
    `floor` is the lowest compute capability that runs it, ten times NVIDIA's (89 for 8.9); 0 leaves it to the
    engine's own; from `below` on (0: never) GPUs no longer run it. `cpu` says that it runs without a GPU too. Below `native` it runs as `note` says. `fallback` is what
    the engine takes instead below `floor` where the spec says `auto`.
    `weights`, of a quantization, names the weights that are quantized so; with `at_load` the engine makes it of plain
    weights too, else `made_by` says what makes them. Weights whose config does not say it are known by a `file`: one
    that ends so, in place of the last of the recipe's. `needs` are distributions that weights like this take beside the
    engine; without `splits` they stay on one GPU (no tensor parallel). `groups` are how many weights may share a scale,
    by the `engine.backend` that takes no other sizes, `kinds` the KINDs of a METHOD, by the one that takes no others (by ""
    where the engine is one). With `whole_groups` tensor parallel divides a matrix between groups alone. `without`, of a
    cache, are words of `quantization` that it does not go with.
    `source` is where the row is from.
    """

    name: str
    source: str
    floor: int = 0
    below: int = 0
    cpu: bool = True
    native: int = 0
    note: str = ""
    fallback: str = ""
    weights: tuple[str, ...] = ()
    at_load: bool = False
    made_by: str = ""
    file: str = ""
    needs: tuple[str, ...] = ()
    splits: bool = True
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    whole_groups: bool = False
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What the engine's own registry names at `version`; `.ci/record.py` reads and writes it.

    `python` is the distribution's Requires-Python. `architectures` are what weights call the models that it generates
    with (`config.json`, GGUF header, model.bin), `converts` those that its converter makes such weights of.
    `removed` maps what it had once to the last version that did; `methods` what weights call their quantization to
    the lowest compute capability that the engine declares for it, or 0. `backends` maps a word of `engine.backend` to
    those of the architectures and methods that it has, for an engine that is several.
    """

    version: str
    python: str
    architectures: tuple[str, ...] = ()
    converts: tuple[str, ...] = ()
    removed: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, int] = field(default_factory=dict)
    backends: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """The facts of one engine.

    `distribution` is its Python distribution, or None when the engine ships with the runtime. `cpu_distribution` is
    another build of the same versions that is taken where no GPU is named, with `cpu_overrides`: requirements that
    replace what anything in the closure asks of a distribution (a marker that is never true leaves it out).
    `overrides` are such requirements by the server that they are for.
    `default_version` is the version packager was tested with; a spec may pin another, from `oldest` on where the adapter
    drives none before. With `gpu_only` it does not run without a GPU.
    `newest` is the last version that has the engine, where it was dropped; `newest_note` says what to do instead.
    `vendor` says where an engine comes from that is no `distribution`: the base must be such an image.
    `plugins` maps a quantization to the further requirements it needs.
    `companions` are further requirements it always has.
    `weights` are the file name endings the engine opens; empty when it takes no weights. With `folder` it opens
    the weights' folder, which needs every one of them at its top: a name, or a file that ends so (`.safetensors`).
    `data_files` are files of this format that are data, though others of their name are pickles.
    `converter` is the command that makes such weights of a transformers folder.
    `own_code` says that it can run code which the weights bring, `adapters` that it serves LoRA adapters,
    `native` that it brings an OpenAI server of its own (`serving.api: native`).
    `most_requests` is how many requests the engine can run at once, where it has a limit.
    `system_packages` are Debian packages the engine loads at run time, each with what for; `cpu_system_packages` are
    more of them where no GPU is named.
    `floor` is the lowest compute capability (ten times NVIDIA's) that its wheels hold code for, by `floor_source`;
    `gpu_note` is what a person must see to before it runs on one.
    `formats` are number formats by where they are said: `quantization`, `weights` (their own config), or an option of
    the engine. `record` is what the engine's registry says; None when there is none to read.
    """

    engine: str
    distribution: str | None
    default_version: str
    weights: tuple[str, ...]
    oldest: str = ""
    gpu_only: bool = False
    newest: str = ""
    newest_note: str = ""
    vendor: Vendor | None = None
    most_requests: int | None = None
    system_packages: Mapping[str, str] = field(default_factory=dict)
    cpu_system_packages: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    companions: tuple[str, ...] = ()
    folder: bool = False
    data_files: tuple[str, ...] = ()
    converter: str = ""
    own_code: bool = False
    adapters: bool = False
    native: bool = False
    cpu_distribution: str | None = None
    cpu_overrides: tuple[str, ...] = ()
    overrides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    floor: int = 0
    floor_source: str = ""
    gpu_note: str = ""
    formats: Mapping[str, tuple[Format, ...]] = field(default_factory=dict)
    record: Record | None = None

    @property
    def converts(self) -> tuple[str, ...]:
        """The architectures of transformers that `converter` makes weights of."""
        return self.record.converts if self.record else ()

    @property
    def quantizations(self) -> tuple[str, ...]:
        """The words of `quantization` that it knows."""
        return ("none", *(one.name for one in self.formats.get("quantization", ())))

    def format(self, where: str, name: str) -> Format | None:
        """The row for `name`, said at `where`; None when there is none."""
        return next((one for one in self.formats.get(where, ()) if one.name == name), None)

    def of_weights(self, quantization: str) -> Format | None:
        """The row for weights that call themselves `METHOD` or `METHOD:KIND`; None when there is none."""
        return self.format("weights", quantization) or self.format("weights", quantization.partition(":")[0])

    def entry(self, paths: Sequence[str], chosen: str | None) -> str | None:
        """What of the weights the engine opens: `chosen`, else the only file it can open (`.`: the whole folder).

        None when there is no such file, or several.
        """
        if self.folder:
            return None if self.lacking(paths) else "."
        fitting = [path for path in paths if path.endswith(self.weights)]
        return chosen or (fitting[0] if len(fitting) == 1 else None)

    def lacking(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of `weights` that are not at the top of a folder with these paths; a format's `file` is as good."""
        top = [path for path in paths if "/" not in path]
        stands_in = any(path.endswith(row.file) for row in self.by_file for path in top)
        needs = self.weights[:-1] if stands_in else self.weights
        return tuple(need for need in needs if not any(_is(path, need) for path in top))

    @property
    def by_file(self) -> tuple[Format, ...]:
        """The quantizations that weights show by a file, not in their config."""
        return tuple(row for row in self.formats.get("quantization", ()) if row.file)

    def debian_packages(self, *, gpu: bool) -> frozenset[str]:
        """The names of the Debian packages that the engine needs on a GPU, or without."""
        return frozenset(self.system_packages if gpu else {**self.system_packages, **self.cpu_system_packages})

    def requirements(self, version: str | None, quantization: str, *, gpu: bool = False) -> tuple[str, ...]:
        """PEP 508 requirements of the engine at `version` (None: the tested default), to run on a GPU or without."""
        name = self.distribution if gpu else self.cpu_distribution or self.distribution
        if name is None:
            return self.companions
        pinned = f"{name}=={version or self.default_version}"
        return (pinned, *self.companions, *self.plugins.get(quantization, ()))


def _is(name: str, need: str) -> bool:
    return name == need or (need.startswith(".") and name.endswith(need))
