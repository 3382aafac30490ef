"""`packager build`: the package and the image of a spec."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Console

if TYPE_CHECKING:
    from ..oci.image import Image
    from .progress import Progress


@click.command("build")
@click.argument("spec", default=".")
@click.option("--output", "-o", type=click.Path(path_type=Path), default=Path("dist"), help="Folder for the results.")
@click.option("--repository", help="Registry and path to name the image under, such as registry.example.com/team.")
@click.option("--base", help="Stand on this instead: an image of a registry, or the folder of an OCI layout.")
@click.option("--tag", help="Tag of the image; without it the spec's, else `latest`.")
@click.option("--locked", is_flag=True, help="Fail when the lock does not answer the spec.")
@click.option("--offline", is_flag=True, help="Use the local stores alone.")
@click.option(
    "--full",
    is_flag=True,
    help="Write the layers of a registry base into the layout too: without them only packager can read it.",
)
@click.option("--force", is_flag=True, help="Overwrite files of the package that were edited by hand.")
@click.option(
    "--docker/--no-docker", default=None, help="Load the image into the Docker Engine; default: when one answers."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and write nothing but a missing lock.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_obj
def command(
    console: Console, /, spec: str, *, dry_run: bool, docker: bool | None, as_json: bool, **options: Any
) -> None:
    """Build the package and the image of a spec.

    SPEC is a name from `packager catalog`, a packager.yaml, its folder, or a package folder that was
    built before (its image is then made from it as it stands). Leaves NAME/ and NAME.oci/ in the output folder.
    """
    from ..catalog import find
    from ..image.describe import describe_layout
    from ..pipeline import BuildOptions, build, preview
    from .progress import Progress
    from .tools import shown_tools

    offline = options.pop("offline")
    source = find(spec)
    with Progress.start(quiet=console.quiet) as progress:
        chosen = BuildOptions(**options)
        tools = shown_tools(progress, offline=offline)
        if dry_run:
            plan = preview(source, chosen, tools)
        else:
            built = build(source, chosen, tools)
            loaded = _load(built.image, built.reference, progress, docker=docker)
    if dry_run:
        console.data(plan)
        return
    described = describe_layout(built.layout)
    summary = {
        "reference": built.reference,
        "manifest_digest": described["manifest_digest"],
        "config_digest": described["config_digest"],
        "package": str(built.package.folder),
        "layout": str(built.layout),
        "size": described["size"],
        "layers": len(built.image.layers),
        "docker": loaded,
    }
    if as_json:
        console.data(summary)
        return
    for contest in built.plan.contests:
        console.say(f"{contest.path}: {contest.winner} wins over {', '.join(contest.losers)}")
    console.result(f"package  {summary['package']}")
    console.result(f"image    {summary['layout']}  {summary['manifest_digest']}")
    console.say(f"{summary['layers']} layers, {summary['size']:,} bytes; named {built.reference}")
    if (base := described["base"]) and base["left_out"]:
        console.say(f"the base's layers stay in {base['name']}: other tools need the layout that --full writes")
    console.say(_next(built.reference, loaded=loaded is not None))


def _load(image: "Image", reference: str, progress: "Progress", *, docker: bool | None) -> str | None:
    """Load into the Docker Engine: asked for, or by default when one answers. Its id of the image, or None."""
    from ..image.docker import docker_answers, load_image

    if docker is False or (docker is None and not docker_answers()):
        return None
    progress.stage("Docker Engine")
    loaded = load_image(image, reference, on_bytes=progress.on_bytes)
    progress.say(f"loaded into the Docker Engine as {reference}")
    return loaded


def _next(reference: str, *, loaded: bool) -> str:
    if "/" not in reference:
        return "give --repository REGISTRY/TEAM to name it for a registry"
    return f"push it with `docker push {reference}`" if loaded else f"push it with `packager push {reference}`"
