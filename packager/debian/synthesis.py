"""The paths that no package ships: what maintainer scripts, dpkg and the installer would have made."""

import posixpath
from collections.abc import Mapping, Sequence

from .actions import Action, Alternative, Copy, Folder, Link, Write
from .archive import Deb, control_fields
from .entries import RootEntry, directory, plain_file, symlink
from .merge import Tree, merged_links, place

USER = 65532
"""The user and group `packager`, as which images run."""

_PASSWD = f"""\
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
packager:x:{USER}:{USER}:packager:/nonexistent:/usr/sbin/nologin
"""
_GROUP = f"""\
root:x:0:
tty:x:5:
nogroup:x:65534:
packager:x:{USER}:
"""
_NSSWITCH = """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
"""
_INFO = "var/lib/dpkg/info"
_STATUS = "var/lib/dpkg/status"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_AUTHORITIES = "usr/share/ca-certificates/"


def add_skeleton(tree: Tree) -> None:
    """Folders, links, users and name service: what any program expects of a root."""
    for entry in merged_links():
        tree.entries[entry.path] = entry
    for path in ("dev", "etc", "home", "proc", "run", "sys", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "var/lib"):
        tree.offer(directory(path))
    tree.offer(directory("root", 0o700))
    for path in ("tmp", "var/tmp"):
        tree.entries[path] = directory(path, 0o1777)
    tree.offer(plain_file("etc/passwd", _PASSWD.encode()))
    tree.offer(plain_file("etc/group", _GROUP.encode()))
    tree.offer(plain_file("etc/nsswitch.conf", _NSSWITCH.encode()))


def apply_actions(tree: Tree, actions: Sequence[Action]) -> None:
    """Do what stands in for maintainer scripts, in the order given; alternatives last, once all files are there."""
    for action in actions:
        path = "" if isinstance(action, Alternative) else action.path.strip("/")
        match action:
            case Write(text=text):
                tree.offer(plain_file(path, text.encode()))
            case Copy(source=source):
                found = tree.find(source)
                if found is not None:
                    tree.offer(RootEntry(path, "file", found.mode, content=found.content))
            case Folder(mode=mode):
                tree.offer(directory(path, mode))
            case Link(target=target):
                tree.offer(symlink(path, target))
    _choose_alternatives(tree, [action for action in actions if isinstance(action, Alternative)])


def _choose_alternatives(tree: Tree, every: Sequence[Alternative]) -> None:
    """The highest priority wins, the first package of equals; what leads nowhere (left-out manuals) is skipped."""
    best: dict[str, Alternative] = {}
    for one in every:
        if tree.find(one.path) and (one.name not in best or one.priority > best[one.name].priority):
            best[one.name] = one
    for one in best.values():
        for link, name, path in ((one.link, one.name, one.path), *one.slaves):
            if tree.find(path) and place(link) not in tree.entries:
                tree.offer(symlink(f"etc/alternatives/{name}", path))
                tree.offer(symlink(link, f"/etc/alternatives/{name}"))


def add_authorities(tree: Tree) -> None:
    """The bundle of certificate authorities that update-ca-certificates makes, and its links by name.

    The links by hash are left out: OpenSSL's own cert.pem leads to the bundle.
    """
    paths = [path for path in sorted(tree.entries) if path.startswith(_AUTHORITIES) and path.endswith(".crt")]
    if not paths:
        return
    for path in paths:
        name = posixpath.basename(path).removesuffix(".crt")
        tree.offer(symlink(f"etc/ssl/certs/{name}.pem", f"/{path}"))
    bundle = b"".join(tree.entries[path].read().rstrip(b"\n") + b"\n" for path in paths)
    tree.entries[_BUNDLE] = plain_file(_BUNDLE, bundle)
    listed = "".join(path.removeprefix(_AUTHORITIES) + "\n" for path in paths)
    tree.offer(plain_file("etc/ca-certificates.conf", listed.encode()))


def add_database(tree: Tree, debs: Mapping[str, Deb]) -> None:
    """Add dpkg's own account of what is installed, so that scanners and people can ask."""
    listed: dict[str, list[str]] = {name: [] for name in debs}
    for path, owner in tree.owners.items():
        listed[owner].append(path)
    stanzas = []
    for name in sorted(debs):
        fields = control_fields(debs[name].control["control"])
        stanzas.append(_stanza(fields))
        arch = f":{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else ""
        text = "/.\n" + "".join(f"/{path}\n" for path in sorted(listed[name]))
        tree.offer(plain_file(f"{_INFO}/{name}{arch}.list", text.encode()))
        sums = _sums(debs[name].control.get("md5sums", b"").decode(), set(listed[name]))
        tree.offer(plain_file(f"{_INFO}/{name}{arch}.md5sums", sums.encode()))
    tree.offer(plain_file(f"{_INFO}/format", b"1\n"))
    tree.entries[_STATUS] = plain_file(_STATUS, "\n".join(stanzas).encode())


def _sums(text: str, shipped: set[str]) -> str:
    """The package's own sums, for the files that are here, under the names they have here."""
    lines = (line.partition("  ") for line in text.splitlines())
    return "".join(f"{md5}  {place(path)}\n" for md5, _, path in lines if place(path) in shipped)


def _stanza(fields: Mapping[str, str]) -> str:
    lines = [("Package", fields["Package"]), ("Status", "install ok installed")]
    lines += [(key, value) for key, value in fields.items() if key not in {"Package", "Status"}]
    return "".join(f"{key}: {value}\n" if not value.startswith("\n") else f"{key}:{value}\n" for key, value in lines)
