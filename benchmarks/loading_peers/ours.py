"""packager's side: a package's weights into a store, as `load()` in a container has them before an engine starts."""

import sys
from pathlib import Path

from packager.manifest import read_manifest
from packager.store import Store
from packager.weights.load import ensure_weights

package, store = map(Path, sys.argv[1:])
ensure_weights(read_manifest(package), package, Store(store))
