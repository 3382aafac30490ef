"""`packager inspect`: what is in a package or an image."""

from pathlib import Path
from typing import Any

import click

from .console import Console


@click.command("inspect")
@click.argument("what")
@click.option("--json", "as_json", is_flag=True, help="Print everything, as JSON.")
@click.pass_obj
def command(console: Console, what: str, *, as_json: bool) -> None:
    """Show what is in WHAT: layers, sizes, wheels, weights.

    WHAT is a package folder, an OCI layout folder, or the reference of an image in a registry.
    """
    from ..image.describe import describe_image, describe_layout, describe_package
    from ..image.names import named_in_registry
    from ..oci.layout import is_layout
    from ..package.read import is_package, read_package

    path = Path(what)
    if is_package(path):
        value = {"package": describe_package(read_package(path))}
        beside = path.absolute().with_name(f"{value['package']['name']}.oci")
        if is_layout(beside):
            value["image"] = describe_layout(beside)
    elif is_layout(path):
        value = {"image": describe_layout(path)}
    else:
        value = {"image": describe_image(named_in_registry(what), what)}
    if as_json:
        console.data(value)
        return
    if "package" in value:
        _package(value["package"], console)
    if "image" in value:
        _image(value["image"], console)


def _package(value: dict[str, Any], console: Console) -> None:
    engine = value["engine"]
    console.result(f"package   {value['name']} (packager {value['packager']})")
    console.result(f"engine    {engine['kind']} {engine['version']}")
    console.result(f"base      {value['base']}")
    console.result(f"size      {value['size']:,} bytes in {value['files']} files")
    for title in ("weights", "tokenizer", "wheels"):
        rows = value[title]
        if title == "tokenizer" and not rows:
            continue
        console.result(f"{title:9} {len(rows)} ({sum(row['size'] for row in rows):,} bytes)")
        for row in sorted(rows, key=lambda row: (-row["size"], row.get("path", row.get("name")))):
            label = row.get("path") or f"{row['name']} {row['version']}"
            console.result(f"  {row['size']:>15,}  {row['sha256'][:12]}  {label}")
    for contest in value["contests"]:
        console.result(f"contested {contest['path']}: {contest['winner']} over {', '.join(contest['losers'])}")


def _image(value: dict[str, Any], console: Console) -> None:
    console.result(f"image     {value['reference'] or '(no name)'}")
    console.result(f"manifest  {value['manifest_digest']}")
    console.result(f"config    {value['config_digest']}")
    console.result(f"platform  {value['platform']}, user {value['user'] or 'root'}")
    console.result(f"starts    {' '.join(value['entrypoint'])}")
    if base := value.get("base"):
        note = "; its layers are there, not in this layout" if base["left_out"] else ""
        console.result(f"base      {base['name']} at {base['digest'][:19]}{note}")
    console.result(f"layers    {len(value['layers'])} ({value['size']:,} bytes)")
    for layer in value["layers"]:
        console.result(f"  {layer['size']:>15,}  {layer['digest'][7:19]}  {layer['title']}")
