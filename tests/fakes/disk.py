"""A disk that forgets what was not synced: records what a program does to files, and shows what a power cut may leave.

    with Recorder(root) as disk:
        ...                            # os.open, os.write, os.pwrite, os.ftruncate, os.link, os.replace, os.fsync ...
    for cut in range(len(disk.done) + 1):
        disk.leave(cut, dice, folder)  # one state that a cut after the first `cut` calls may leave

The rules are those of POSIX read darkly: bytes are safe after fsync of their file, names after fsync of their folder;
what was not synced may be there or not, each for itself, and a file that is longer on the disk than its safe bytes has
zeros there.
"""

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

_NAMES = ("open", "close", "write", "pwrite", "ftruncate", "fsync", "link", "unlink", "rename", "replace")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: `inode` is a number of ours."""

    kind: str
    inode: int = 0
    offset: int = 0
    data: bytes = b""
    name: str = ""
    target: str = ""


@dataclass
class Recorder:
    """Everything that is done below `root` while it is entered."""

    root: Path
    done: list[Call] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._real = {name: getattr(os, name) for name in _NAMES}
        self._inodes: dict[int, int] = {}  # by descriptor
        self._names: dict[str, int] = {}  # by path: the inode that is there now
        self._lock = threading.RLock()
        for name in _NAMES:
            setattr(os, name, self._wrap(name))
        return self

    def __exit__(self, *_: object) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)

    def _wrap(self, name: str) -> Callable[..., Any]:
        real, note = self._real[name], getattr(self, f"_on_{name}")

        def call(*arguments: Any, **named: Any) -> Any:
            with self._lock:
                result = real(*arguments, **named)
                note(result, *arguments, **named)
                return result

        return call

    def _inside(self, path: Any) -> str | None:
        text = os.fsdecode(path) if not isinstance(path, int) else ""
        return text if text.startswith(f"{self.root}/") or text == str(self.root) else None

    def _inode(self, descriptor: int) -> int | None:
        return self._inodes.get(descriptor)

    # What is noted of each call

    def _on_open(self, descriptor: int, path: Any, flags: int, *_: Any, **__: Any) -> None:
        if (name := self._inside(path)) is None:
            return
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            self._inodes[descriptor] = self._new()
            return
        if name not in self._names:
            self._names[name] = self._new()
            if flags & os.O_CREAT:
                self.done.append(Call("name", self._names[name], name=name))
        self._inodes[descriptor] = self._names[name]

    def _new(self) -> int:
        self._count = getattr(self, "_count", 0) + 1
        return self._count

    def _on_close(self, _: None, descriptor: int) -> None:
        self._inodes.pop(descriptor, None)

    def _on_write(self, written: int, descriptor: int, data: Any) -> None:
        if (inode := self._inode(descriptor)) is not None:
            self.done.append(Call("append", inode, data=bytes(data)[:written]))

    def _on_pwrite(self, written: int, descriptor: int, data: Any, offset: int) -> None:
        if (inode := self._inode(descriptor)) is not None:
            self.done.append(Call("write", inode, offset, bytes(data)[:written]))

    def _on_ftruncate(self, _: None, descriptor: int, length: int) -> None:
        if (inode := self._inode(descriptor)) is not None:
            self.done.append(Call("truncate", inode, length))

    def _on_fsync(self, _: None, descriptor: int) -> None:
        if (inode := self._inode(descriptor)) is not None:
            name = next((name for name, one in self._names.items() if one == inode), "")
            self.done.append(Call("sync", inode, name=name))

    def _on_link(self, _: None, source: Any, target: Any, **__: Any) -> None:
        if (name := self._inside(target)) is None:
            return
        text = os.fsdecode(source)
        inode = self._inodes[int(text.rpartition("/")[2])] if text.startswith("/proc/self/fd/") else self._names[text]
        self._names[name] = inode
        self.done.append(Call("name", inode, name=name))

    def _on_unlink(self, _: None, path: Any, **__: Any) -> None:
        if (name := self._inside(path)) is not None:
            self._names.pop(name, None)
            self.done.append(Call("unname", name=name))

    def _on_replace(self, _: None, source: Any, target: Any, **__: Any) -> None:
        old, new = self._inside(source), self._inside(target)
        if old is not None and new is not None:
            self._names[new] = self._names.pop(old, 0)
            self.done.append(Call("move", self._names[new], name=old, target=new))

    _on_rename = _on_replace

    # What a cut leaves

    def leave(self, cut: int, dice: random.Random, folder: Path) -> None:
        """Write into `folder` one state that a power cut after the first `cut` calls may leave."""
        calls = self.done[:cut]
        synced: dict[int, int] = {}  # by inode: calls before this one are safe
        for number, call in enumerate(calls):
            if call.kind == "sync":
                synced[call.inode] = number
        names: dict[str, int] = {}
        for number, call in enumerate(calls):
            later = {other.name for other in calls[number:] if other.kind == "sync"}
            if call.target and self._kept(call.target, later, dice):
                names[call.target] = call.inode
            if call.kind in ("name", "unname", "move") and self._kept(call.name, later, dice):
                names.pop(call.name, None)
                if call.kind == "name":
                    names[call.name] = call.inode
        for name, inode in names.items():
            path = folder / Path(name).relative_to(self.root)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._content(inode, calls, synced.get(inode, -1), dice))

    @staticmethod
    def _kept(name: str, synced: set[str], dice: random.Random) -> bool:
        """Whether what happened to the name lasts: surely where its folder was `synced` afterwards."""
        return str(Path(name).parent) in synced or dice.random() < 0.5

    @staticmethod
    def _content(inode: int, calls: list[Call], synced: int, dice: random.Random) -> bytes:
        data, end = bytearray(), 0
        for number, call in enumerate(calls):
            if call.inode != inode or call.kind not in ("append", "write", "truncate"):
                continue
            offset = end if call.kind == "append" else call.offset
            if call.kind == "truncate":
                end = offset
                data[offset:] = b""
                data.extend(bytes(offset - len(data)))
                continue
            end = max(end, offset + len(call.data))
            data.extend(bytes(max(0, end - len(data))))
            if number < synced or dice.random() < 0.5:
                data[offset : offset + len(call.data)] = call.data
        return bytes(data)
