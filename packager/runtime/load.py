"""From a package folder to a running engine: manifest, verified weights, adapter, start."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..environ import cache_root
from ..errors import LoadError
from ..manifest import MANIFEST_PATH, Manifest, read_manifest
from ..store import Store
from ..weights.leases import Leasing, names_of
from ..weights.load import ensure_adapters, ensure_weights
from .engine import ASGI, Engine, EngineFacts, EngineSetup, HasNativeApp
from .engines import open_engine
from .loading import following
from .logs import event
from .machine import refuse_mismatch
from .metrics import Metrics
from .supervise import Supervisor
from .threads import in_daemon_thread


def open_package(package: Path, store: Store | None = None) -> Supervisor:
    """A supervisor for the package folder, not started. Raises PackageError when it is no package.

    From its first load until it is stopped it holds a lease on what it uses of the store.
    """
    manifest = read_manifest(package)
    where = store or Store(cache_root())
    metrics = Metrics()
    leasing = Leasing(where, manifest.name, names_of(manifest))

    async def load() -> tuple[Engine, EngineFacts]:
        await in_daemon_thread(lambda: take_lease(leasing, where))
        return await load_engine(manifest, package, where, metrics)

    return Supervisor(manifest, load, metrics, leasing.release)


async def load_engine(manifest: Manifest, package: Path, store: Store, metrics: Metrics) -> tuple[Engine, EngineFacts]:
    """Make sure of the weights, then start the engine on them.

    Raises MismatchError before anything is fetched where a compiled engine cannot run here, LoadError, FetchError or
    IntegrityError.
    """
    loading = metrics.loading
    with following(loading):
        loading.phase("resolve")
        await in_daemon_thread(lambda: refuse_mismatch(manifest))
        root = await in_daemon_thread(lambda: ensure_weights(manifest, package, store, watch=loading))
        adapters = await in_daemon_thread(lambda: ensure_adapters(manifest, package, store, watch=loading))
        setup = _setup(manifest, package, root, adapters)
        loading.phase("engine")
        # Importing torch takes seconds, in which probes must be answered.
        engine = await in_daemon_thread(lambda: open_engine(manifest.engine.kind, setup))
        try:
            facts = await engine.start()
            if manifest.serving.api == "native":
                facts = replace(facts, native=await _native(engine, facts))
        except BaseException:  # cancelled as well: what it had started must not outlive it
            await engine.stop()
            raise
    return engine, facts


def take_lease(leasing: Leasing, store: Store) -> None:
    """Take the lease; where the store cannot be written, say so and go on."""
    try:
        leasing.take()
    except OSError as error:  # what is there can be read all the same, and nobody prunes it from here
        event("no lease", logging.WARNING, store=str(store.root), reason=error.strerror)


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
        compiled=manifest.weights.compiled if manifest.weights else None,
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
