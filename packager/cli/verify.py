"""`packager verify`: compare an image with what its package says it is."""

from pathlib import Path

import click

from .console import Console

WORDS = {
    "manifest": "the same image, byte for byte",
    "config": "the same image by configuration and diff ids; its layers were compressed again on the way",
}


@click.command("verify")
@click.argument("image")
@click.option("--package", type=click.Path(path_type=Path), help="Package folder to compare with; default dist/NAME.")
@click.option(
    "--deep", is_flag=True, help="Make every layer again from wheels, Debian packages and weights, and compare."
)
@click.option("--offline", is_flag=True, help="Use the local stores alone.")
@click.pass_obj
def command(console: Console, image: str, *, package: Path | None, deep: bool, offline: bool) -> None:
    """Compare IMAGE, a reference in a registry or a layout folder, with the package it was built from."""
    from ..errors import ImageError
    from ..image.names import named_in_registry
    from ..image.verify import compare, reassemble
    from ..oci.layout import is_layout, read_layout
    from ..oci.reference import parse_reference
    from .progress import Progress
    from .tools import make_tools

    path = Path(image)
    found = read_layout(path, verify=deep) if is_layout(path) else named_in_registry(image)
    name = path.name.removesuffix(".oci") if is_layout(path) else parse_reference(image).repository.rpartition("/")[2]
    folder = package or Path("dist") / name
    with Progress.start(quiet=console.quiet) as progress:
        expected = reassemble(folder, make_tools(progress, offline=offline), deep=deep)
    verdict = compare(expected, found)
    if verdict.identity == "different":
        raise ImageError(
            f"this is not the image of {folder}: {'; '.join(verdict.differences)}",
            where=image,
            mend="build it again, or name the package it was built from with --package",
        )
    console.result(f"{WORDS[verdict.identity]}: {found.manifest_digest}")
