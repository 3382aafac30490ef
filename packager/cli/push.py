"""`packager push`: push an image to a registry, with no Docker Engine."""

from pathlib import Path

import click

from .console import Console


@click.command("push")
@click.argument("image")
@click.option("--to", "target", help="Push under this reference instead of the image's own name.")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("dist"), help="Folder of the results.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(console: Console, image: str, *, target: str | None, output: Path, as_json: bool) -> None:
    """Push an image that was built; its manifest digest stays what it is.

    IMAGE is the image's name (REGISTRY/TEAM/NAME[:TAG]; it is looked for in the output folder), a
    package folder, or a layout folder such as dist/NAME.oci. The layers of a registry base are mounted
    where the target's registry has them, and else copied over without a file on disk.
    """
    from ..errors import ImageError
    from ..image.base import base_mounts, open_layout
    from ..image.names import find_layout
    from ..oci.reference import parse_reference
    from ..oci.registry import push_image
    from .progress import Progress
    from .tools import make_tools

    layout, reference = find_layout(image, output)
    if target is None and "/" not in reference:
        mend = "name it with --to REGISTRY/TEAM/NAME:TAG, or build it with --repository"
        raise ImageError("this image was built without a registry in its name", where=reference, mend=mend)
    name = parse_reference(reference if target is None else target)
    with Progress.start(quiet=console.quiet) as progress:
        progress.stage(f"push {name}")
        tools = make_tools(progress)
        mounts = base_mounts(layout, name, tools)
        report = push_image(open_layout(layout, tools), name, progress=progress.on_bytes, mounts=mounts)
    if as_json:
        fields = ("manifest_digest", "uploaded_bytes", "uploaded", "mounted", "skipped")
        console.data({"reference": str(name), **{field: getattr(report, field) for field in fields}})
        return
    console.say(
        f"{report.uploaded} blobs sent ({report.uploaded_bytes:,} bytes), {report.mounted} mounted, {report.skipped} there already"
    )
    console.result(f"{name.name}@{report.manifest_digest}")
