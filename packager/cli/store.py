"""`packager store`: what the store holds, whether it is intact, and what may go."""

import math
import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Console

if TYPE_CHECKING:
    from ..store import Store
    from ..upkeep.check import Damaged
    from ..upkeep.inventory import Inventory, Item, PartItem
    from ..upkeep.prune import Pruned

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SHORT = 12
"""Characters of a digest that people are shown."""


def _seconds(_: click.Context, __: click.Parameter, value: str) -> float:
    """A time such as `30d`. Anything else is a wrong command line."""
    found = re.fullmatch(r"(\d+)([mhdw])", value)
    if found is None:
        raise click.BadParameter(f"'{value}' is no time: write a number and m, h, d or w, such as 30d")
    return float(int(found[1]) * _UNITS[found[2]])


@click.group("store", no_args_is_help=False)
def command() -> None:
    """Look after the store: weights, wheels, Debian packages and layers, each once, under its sha256."""


_folder = click.option(
    "--store", "folder", type=click.Path(path_type=Path), help="Folder of the store; default PACKAGER_CACHE."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@command.command("list")
@_folder
@click.option(
    "--sort", type=click.Choice(["size", "used"]), default="size", show_default=True, help="Largest or last used first."
)
@_as_json
@click.pass_obj
def list_command(console: Console, *, folder: Path | None, sort: str, as_json: bool) -> None:
    """List what is in the store: names, sizes, last use, and which processes use it."""
    from ..upkeep.inventory import shown, take_inventory

    store = _store(folder)
    stock = take_inventory(store)
    if as_json:
        console.data(_values(store, stock))
        return
    for item in sorted(stock.items, key=lambda one: (-one.used if sort == "used" else -one.size, one.sha256)):
        console.result(_line(item))
    for part in stock.parts:
        console.result(_part_line(part))
    for lease in stock.leases:
        what = "everything" if lease.files is None else _count(len(lease.files), "file")
        console.result(f"in use: {what} by {shown(lease)} since {_moment(lease.since)}")
    total = sum(item.size for item in stock.items)
    console.result(
        f"{_count(len(stock.items), 'file')}, {total:,} bytes, in {store.root}; {stock.free:,} bytes are free there"
    )


@command.command("verify")
@_folder
@click.option("--remove", is_flag=True, help="Remove damaged files that no process uses: they are fetched again.")
@_as_json
@click.pass_obj
def verify_command(console: Console, *, folder: Path | None, remove: bool, as_json: bool) -> None:
    """Read every file of the store again and compare it with its sha256."""
    from ..errors import IntegrityError, Problem
    from ..upkeep.check import check_files, remove_damaged
    from ..upkeep.inventory import take_inventory
    from .progress import Progress

    store = _store(folder)
    items = take_inventory(store).items
    total = sum(item.size for item in items)
    with Progress.start(quiet=console.quiet) as progress:
        progress.stage("verify", total)
        damaged = check_files(store, items, progress.on_bytes)
    if remove and damaged:
        damaged = remove_damaged(store, damaged)
    if as_json:
        rows = [_item_value(one.item) | {"why": one.why, "removed": one.removed} for one in damaged]
        console.data({"store": str(store.root), "files": len(items), "bytes": total, "damaged": rows})
    if damaged:
        raise IntegrityError.collect(
            [Problem(_damage(one), str(store.path(one.item.sha256)), _mend(one)) for one in damaged]
        )
    if not as_json:
        console.result(f"{_count(len(items), 'file')}, {total:,} bytes: all intact")


@command.command("prune")
@_folder
@click.option(
    "--older-than",
    default="30d",
    callback=_seconds,
    show_default=True,
    help="Only what was not used for so long: 12h, 30d, 8w.",
)
@click.option("--all", "everything", is_flag=True, help="Whatever no process uses, however new.")
@click.option("--keep-parts", is_flag=True, help="Leave unfinished fetches, which would go on where they broke off.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@_as_json
@click.pass_obj
def prune_command(
    console: Console, /, *, folder: Path | None, older_than: float, everything: bool, as_json: bool, **options: bool
) -> None:
    """Remove what no process uses and was not used for a while."""
    from ..upkeep.prune import PruneOptions, prune

    store = _store(folder)
    chosen = PruneOptions(-math.inf if everything else older_than, **options)
    pruned = prune(store, chosen)
    if as_json:
        console.data(_pruned_value(store, pruned, dry_run=chosen.dry_run))
        return
    for item in pruned.items:
        console.result(f"{'would go' if chosen.dry_run else 'removed'}  {_line(item)}")
    for part in pruned.parts:
        console.result(f"{'would go' if chosen.dry_run else 'removed'}  {_part_line(part)}")
    if pruned.used:
        users = sorted({user for item in pruned.used for user in item.users})
        kept = sum(item.size for item in pruned.used)
        console.say(f"kept {_count(len(pruned.used), 'file')}, {kept:,} bytes, in use by {', '.join(users)}")
    console.result(_sum(pruned, dry_run=chosen.dry_run))


def _store(folder: Path | None) -> "Store":
    """The store that is meant. Raises OutputError for a folder that was named and is not there, and for what is no folder."""
    from ..environ import cache_root
    from ..errors import OutputError
    from ..store import Store

    store = Store(folder or cache_root())
    there = os.path.lexists(store.root)
    if (there or folder is not None) and not store.root.is_dir():
        what = "this is no folder" if there else "there is no such folder"
        mend = "name the folder that PACKAGER_CACHE names" if folder else "set PACKAGER_CACHE to a folder"
        raise OutputError(what, where=str(store.root), mend=mend)
    return store


def _line(item: "Item") -> str:
    users = f"  used by {', '.join(item.users)}" if item.users else ""
    name = item.name or "(no name)"
    return f"{item.size:>15,}  {item.sha256[:_SHORT]}  {item.kind:14}  {_moment(item.used)}  {name}{users}"


def _part_line(part: "PartItem") -> str:
    whole = f" of {part.size:,}" if part.size else ""
    live = ", being fetched" if part.live else ""
    name = part.name or "(no name)"
    return f"{part.done:>15,}  {part.sha256[:_SHORT]}  {'unfinished':14}  {_moment(part.used)}  {name}{whole}{live}"


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _damage(one: "Damaged") -> str:
    name = one.item.name or "a file"
    state = "; it was removed" if one.removed else f"; used by {', '.join(one.users)}" if one.users else ""
    return f"{name} ({one.item.size:,} bytes) is damaged: {one.why}{state}"


def _mend(one: "Damaged") -> str:
    if one.removed:
        return "`packager fetch`, `packager build` or the next load brings it again"
    first = "stop what uses it, then " if one.users or one.item.users else ""
    return f"{first}remove it with `packager store verify --remove`: it is fetched again when it is needed"


def _sum(pruned: "Pruned", *, dry_run: bool) -> str:
    besides = (
        _count(len(pruned.parts), "unfinished part"),
        _count(pruned.trees, "tree"),
        _count(pruned.memos, "memo"),
        _count(pruned.temporary, "temporary file"),
    )
    files = _count(len(pruned.items), "file")
    more = "".join(f", {one}" for one in besides if not one.startswith("0 "))
    return f"{'would free' if dry_run else 'freed'} {pruned.size:,} bytes: {files}{more}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _values(store: "Store", stock: "Inventory") -> dict[str, Any]:
    return {
        "store": str(store.root),
        "bytes": sum(item.size for item in stock.items),
        "free": stock.free,
        "files": [_item_value(item) for item in stock.items],
        "unfinished": [_part_value(part) for part in stock.parts],
        "leases": [
            {
                "holder": lease.holder,
                "pid": lease.pid,
                "host": lease.host,
                "since": _iso(lease.since),
                "files": None if lease.files is None else sorted(lease.files),
            }
            for lease in stock.leases
        ],
    }


def _item_value(item: "Item") -> dict[str, Any]:
    return {
        "sha256": item.sha256,
        "name": item.name,
        "kind": item.kind,
        "size": item.size,
        "used": _iso(item.used),
        "users": list(item.users),
    }


def _part_value(part: "PartItem") -> dict[str, Any]:
    return {
        "sha256": part.sha256,
        "name": part.name,
        "done": part.done,
        "size": part.size,
        "used": _iso(part.used),
        "live": part.live,
    }


def _pruned_value(store: "Store", pruned: "Pruned", *, dry_run: bool) -> dict[str, Any]:
    return {
        "store": str(store.root),
        "dry_run": dry_run,
        "bytes": pruned.size,
        "files": [_item_value(item) for item in pruned.items],
        "unfinished": [_part_value(part) for part in pruned.parts],
        "kept": [_item_value(item) for item in pruned.used],
        "trees": pruned.trees,
        "memos": pruned.memos,
        "temporary": pruned.temporary,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
