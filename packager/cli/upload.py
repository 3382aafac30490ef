"""`packager upload`: weights or a compiled engine to the hub, an object store or a folder."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from .console import Console


@click.command("upload")
@click.argument("what", type=click.Path(exists=True, path_type=Path))
@click.argument("destination")
@click.option("--revision", metavar="BRANCH", default="", help="The hub's branch to commit to; default main.")
@click.option("--private", is_flag=True, help="Make the hub's repository private when it does not exist yet.")
@click.option("--message", metavar="TEXT", default="", help="The commit's message on the hub.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.pass_obj
def command(console: Console, /, what: Path, destination: str, *, dry_run: bool, **options: Any) -> None:
    """Upload the weights of WHAT to DESTINATION, and print the lines of a spec that read them from there.

    WHAT is a package (its weights; code, LoRA adapters and a tokenizer from elsewhere stay), or a folder or file of
    weights or of a compiled engine (with its engine.json); files whose names begin with a dot stay.
    DESTINATION is hf://OWNER/NAME[/FOLDER], s3://BUCKET/PREFIX or file:///PATH. What is there already with the same
    sha256 is not sent; nothing there is removed.
    """
    from ..environ import cache_root
    from ..manifest import MANIFEST_PATH, read_manifest
    from ..store import Store
    from ..upload.run import UploadOptions, open_destination, plan_upload, run_plan
    from ..weights.leases import leased, names_of
    from .progress import Progress, size

    store = Store(cache_root())
    target = open_destination(destination, UploadOptions(**options), store)
    manifest = read_manifest(what) if (what / MANIFEST_PATH).is_file() else None
    held = leased(store, manifest.name, names_of(manifest)) if manifest else nullcontext()
    with held, Progress.start(quiet=console.quiet) as progress:
        progress.stage(f"look at {what} and {target.uri}")
        plan = plan_upload(what, target, store, progress.on_bytes)
        total = sum(file.size for file in plan.send)
        if not dry_run:
            progress.stage(f"upload {_files(len(plan.send))} to {target.uri}", total)
            commit = run_plan(plan, target, store, progress.on_bytes)
    tokenizer = manifest and manifest.tokenizer
    if tokenizer:
        console.say(f"the package's tokenizer stays where it is: {tokenizer.source}")
    if manifest and manifest.adapters:
        console.say(
            f"the package's LoRA adapters stay here ({', '.join(manifest.adapters)}): upload the folder of each by itself"
        )
    if plan.others:
        console.say(f"{_files(len(plan.others))} besides these stay there, such as {plan.others[0]}")
    if dry_run:
        for file in plan.files:
            state = "there already" if file in plan.present else "to be sent"
            console.result(f"{file.size:>15,}  {file.sha256[:12]}  {state:13}  {file.path}")
        console.say(f"{_files(len(plan.send))} to send ({size(total)}), {len(plan.present)} there already")
        return
    console.say(f"{_files(len(plan.send))} sent ({size(total)}), {len(plan.present)} there already")
    console.result("weights:")
    console.result(f"  source: {target.uri}")
    if commit:
        console.result(f"  revision: {commit}")
    if tokenizer:
        console.result(f"  tokenizer: {tokenizer.source}")
        if tokenizer.revision:
            console.result(f"  tokenizer_revision: {tokenizer.revision}")


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"
