"""`packager serve`: serve a package on this machine with packager's own runner."""

import signal
from pathlib import Path

import click

from ..errors import LoadError


@click.command("serve")
@click.argument("package", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port to listen on, 0 for any free one; without it the package's."
)
@click.pass_context
def command(ctx: click.Context, package: Path, *, host: str, port: int | None) -> None:
    """Serve the package in the folder PACKAGE until it is stopped.

    This Python must have what the package's requirements.txt names. SIGTERM and Ctrl-C drain running
    streams first.
    """
    try:
        from ..runtime.serve import serve
    except ModuleNotFoundError as error:
        what = f"serving needs the Python module {error.name!r}, which is not installed"
        mend = "pip install 'llm-packager[serve]', or the package's requirements.txt"
        raise LoadError(what, where=str(package), mend=mend) from error
    # Its default again, which ends the server at once: raised into the server's loop, it would be logged as a failure.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    ctx.exit(serve(package, host=host, port=port))
