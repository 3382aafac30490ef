"""The context of Dockerfile.base: `python3 .ci/docker_base.py LAYOUT FOLDER`.

Writes FOLDER/rootfs.tar.gz, the first layer of the image in the OCI layout LAYOUT (the Debian base of an
image that `packager build` made), FOLDER/uv, the program of this environment's uv, and the empty FOLDER/cache.
"""

import json
import shutil
import sys
from pathlib import Path

from uv import find_uv_bin


def main(layout: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(layout, index["manifests"][0]["digest"]).read_text())
    shutil.copyfile(blob(layout, manifest["layers"][0]["digest"]), folder / "rootfs.tar.gz")
    shutil.copy(find_uv_bin(), folder / "uv")
    (folder / "cache").mkdir(exist_ok=True)


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
