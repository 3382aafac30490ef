"""The container side: weights to engine to tokens.

Vendored into every package as `packager_runtime`, together with the words it stands on; it
imports nothing of packager's host side and needs no engine until one is started.

    load.py        manifest -> verified weights -> adapter -> a running engine
    engine.py      the Engine Protocol and its values; engines/ has one adapter a file
    admission.py   how many requests run and wait
    generation.py  one request's life: queue, slot, stream, abort
    turns.py       how long a token waits for the next ones: turns of the event loop
    supervise.py   the engine's life: loading, ready, draining, dead, failed
    model.py       Truss's Model and the Python API, over one async core
    server/        one ASGI app; serve.py runs it, server/bento.py mounts it in BentoML
"""
