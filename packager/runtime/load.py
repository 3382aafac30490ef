"""From a package folder to a running engine: manifest, verified weights, adapter, start."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic

from ..environ import cache_root
from ..errors import LoadError
from ..manifest import MANIFEST_PATH, Manifest, read_manifest
from ..store import Store
from ..weights.load import ensure_adapters, ensure_weights
from .engine import ASGI, Engine, EngineFacts, EngineSetup, HasNativeApp
from .engines import open_engine
from .logs import event
from .metrics import Metrics
from .supervise import Supervisor
from .threads import in_daemon_thread


def open_package(package: Path, store: Store | None = None) -> Supervisor:
    """A supervisor for the package folder, not started. Raises PackageError when it is no package."""
    manifest = read_manifest(package)
    where = store or Store(cache_root())
    metrics = Metrics()
    return Supervisor(manifest, lambda: load_engine(manifest, package, where, metrics), metrics)


async def load_engine(manifest: Manifest, package: Path, store: Store, metrics: Metrics) -> tuple[Engine, EngineFacts]:
    """Make sure of the weights, then start the engine on them. Raises LoadError or IntegrityError."""
    with _phase("weights", metrics):
        root = await in_daemon_thread(lambda: ensure_weights(manifest, package, store))
        adapters = await in_daemon_thread(lambda: ensure_adapters(manifest, package, store))
    setup = _setup(manifest, package, root, adapters)
    # Importing torch takes seconds, in which probes must be answered.
    engine = await in_daemon_thread(lambda: open_engine(manifest.engine.kind, setup))
    with _phase("engine", metrics):
        try:
            facts = await engine.start()
            if manifest.serving.api == "native":
                facts = replace(facts, native=await _native(engine, facts))
        except BaseException:  # cancelled as well: what it had started must not outlive it
            await engine.stop()
            raise
    return engine, facts


async def _native(engine: Engine, facts: EngineFacts) -> ASGI:
    if not isinstance(engine, HasNativeApp):
        raise LoadError(
            f"the engine {facts.engine} has no OpenAI server of its own",
            where=MANIFEST_PATH,
            mend="build the package with `serving.api: packager`",
        )
    return await engine.native_app()


def _setup(manifest: Manifest, package: Path, root: Path, adapters: Mapping[str, Path]) -> EngineSetup:
    weights = None if manifest.weights is None else root / manifest.weights.entry
    return EngineSetup(
        model=manifest.name,
        version=manifest.engine.version,
        options=manifest.engine.options,
        weights=weights,
        slots=manifest.serving.max_concurrency,
        chat_template=_chat_template(manifest, package),
        quantization=manifest.engine.quantization,
        own_code=bool(manifest.weights and manifest.weights.trusted_code),
        adapters=adapters,
    )


def _chat_template(manifest: Manifest, package: Path) -> str | None:
    if manifest.chat_template is None:
        return None
    path = (package / MANIFEST_PATH).parent / manifest.chat_template
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(
            f"the chat template cannot be read: {error}", where=str(path), mend="build the package again"
        ) from error


@contextmanager
def _phase(name: str, metrics: Metrics) -> Iterator[None]:
    begun = monotonic()
    yield
    metrics.phases[name] = monotonic() - begun
    event("loaded", phase=name, seconds=round(metrics.phases[name], 3))
