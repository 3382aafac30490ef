"""Every environment variable that packager reads, declared once.

`docs/reference/environment.md` is generated from this table; no other module names a variable.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import SettingError

_SWITCH = {"1": "1", "true": "1", "yes": "1", "on": "1", "0": "", "false": "", "no": "", "off": ""}
"""Words that turn something on or off. One that is misspelt must not leave the network on."""


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: its name and what it does, in one sentence.

    `words` are the only values it takes, in lower case, each with what `get` gives for it; None where it takes any.
    """

    name: str
    text: str
    words: Mapping[str, str] | None = None

    def get(self, environ: Mapping[str, str] | None = None) -> str:
        """The value, or an empty string when it is unset. Raises SettingError for a word that it does not take."""
        value = (os.environ if environ is None else environ).get(self.name, "")
        if self.words is None or not value:
            return value
        try:
            return self.words[value.strip().lower()]
        except KeyError:
            mend = f"set it to one of {', '.join(self.words)}, or unset it"
            raise SettingError(
                f"it is {value[:40]!r}, which says nothing to packager", where=self.name, mend=mend
            ) from None


CACHE = Variable(
    "PACKAGER_CACHE",
    "Folder of the local stores (wheels, Debian packages, weights, layer digests); "
    "default `$XDG_CACHE_HOME/packager`, else `~/.cache/packager`.",
)
OFFLINE = Variable(
    "PACKAGER_OFFLINE", "`1` builds and loads from the local stores alone, as `--offline` does.", words=_SWITCH
)
DEBIAN_MIRROR = Variable(
    "PACKAGER_DEBIAN_MIRROR",
    "A Debian mirror to use instead of the ones in apt's own configuration.",
)
REGISTRY_MIRRORS = Variable(
    "PACKAGER_REGISTRY_MIRRORS",
    "Comma-separated `HOST=MIRROR[/PREFIX]` pairs: where to read images of a vendor's registry from instead.",
)
API_KEY_FILE = Variable(
    "PACKAGER_API_KEY_FILE",
    "File with one API key a line, as it is or as `sha256:HEX`; requests to the served package must bring one of them. "
    "Read again when it changes.",
)
API_KEYS = Variable("PACKAGER_API_KEYS", "API keys as in `PACKAGER_API_KEY_FILE`, separated by commas.")
API_KEY = Variable("PACKAGER_API_KEY", "The API key that `packager chat` and `packager bench` send to a server.")
# botocore reads these, and the rest of what Amazon's own tools read (config files, web identity, instance roles).
AWS_ACCESS_KEY_ID = Variable(
    "AWS_ACCESS_KEY_ID", "Access key for `s3://`; without any credentials it is read unsigned."
)
AWS_DEFAULT_REGION = Variable("AWS_DEFAULT_REGION", "Region of the buckets of `s3://`; default `us-east-1`.")
AWS_ENDPOINT_URL_S3 = Variable(
    "AWS_ENDPOINT_URL_S3", "Address of the object store of `s3://`; default `AWS_ENDPOINT_URL`, else Amazon's."
)
AWS_PROFILE = Variable("AWS_PROFILE", "Profile of Amazon's config files whose credentials and region `s3://` uses.")
AWS_SECRET_ACCESS_KEY = Variable("AWS_SECRET_ACCESS_KEY", "The secret that goes with `AWS_ACCESS_KEY_ID`.")
AWS_SESSION_TOKEN = Variable("AWS_SESSION_TOKEN", "The token that goes with both where they are lent for a while.")
CUDA_DEVICE_ORDER = Variable(
    "CUDA_DEVICE_ORDER", "`PCI_BUS_ID` makes CUDA number GPUs as `nvidia-smi` does; read where they differ."
)
CUDA_VERSION = Variable("CUDA_VERSION", "The CUDA of the image, which NVIDIA's images set: `engine.json` records it.")
CUDA_VISIBLE_DEVICES = Variable(
    "CUDA_VISIBLE_DEVICES", "The GPUs that a compiled engine will see: numbers, or UUIDs of GPUs and MIG devices."
)
DOCKER_CONFIG = Variable(
    "DOCKER_CONFIG", "Folder of Docker's `config.json`, where registry logins are read; default `~/.docker`."
)
DOCKER_HOST = Variable(
    "DOCKER_HOST", "The Docker Engine that images are loaded into; default the socket of this machine."
)
# The six as huggingface_hub reads them; the container reads them without it.
HF_ENDPOINT = Variable(
    "HF_ENDPOINT", "The hub, or the mirror of it, that `hf://` means; default `https://huggingface.co`."
)
HF_HOME = Variable(
    "HF_HOME",
    "Folder where `hf auth login` keeps its `token`; default `$XDG_CACHE_HOME/huggingface`, else `~/.cache/huggingface`.",
)
HF_HUB_DISABLE_IMPLICIT_TOKEN = Variable("HF_HUB_DISABLE_IMPLICIT_TOKEN", "`1` reads `hf://` without any token.")
HF_TOKEN = Variable("HF_TOKEN", "Token for `hf://`: private repositories, and gated ones whose licence you accepted.")
HF_TOKEN_PATH = Variable("HF_TOKEN_PATH", "File with that token, where `HF_TOKEN` is unset; default `$HF_HOME/token`.")
HUGGING_FACE_HUB_TOKEN = Variable("HUGGING_FACE_HUB_TOKEN", "The older name of `HF_TOKEN`.")
LOG_LEVEL = Variable(
    "PACKAGER_LOG_LEVEL",
    "Log level of the served package: debug, info (default), warning, error.",
    words={level: level.upper() for level in ("debug", "info", "warning", "error")},
)
LOG_PROMPTS = Variable(
    "PACKAGER_LOG_PROMPTS", "`1` logs what is asked and answered; never logged by default.", words=_SWITCH
)
VERIFY = Variable(
    "PACKAGER_VERIFY",
    "`always` hashes the weights again at each load; by default a file that was verified is trusted while its size, "
    "inode and times stay as they were.",
    words={"always": "always"},
)
NETRC = Variable("NETRC", "File with logins by host for `https://` weights; default `~/.netrc`.")
NO_COLOR = Variable("NO_COLOR", "Anything but empty: no colours and no moving progress bars.")
TERM = Variable("TERM", "`dumb` or `unknown`, a terminal without control sequences: as `NO_COLOR` has it.")
# uv resolves and pip fetches: what is set for one of them is handed to the other where that one has nothing.
SSL_CERT_FILE = Variable(
    "SSL_CERT_FILE",
    "Certificates to trust: for weights, default the system's; for Python package indexes, default pip's `cert`.",
)
UV_DEFAULT_INDEX = Variable("UV_DEFAULT_INDEX", "uv's package index; pip uses it too unless it has its own.")
UV_INDEX_URL = Variable("UV_INDEX_URL", "The older name of `UV_DEFAULT_INDEX`.")
UV_INDEX = Variable("UV_INDEX", "uv's further package indexes; pip uses them too unless it has its own.")
UV_EXTRA_INDEX_URL = Variable("UV_EXTRA_INDEX_URL", "The older name of `UV_INDEX`.")
UV_FIND_LINKS = Variable("UV_FIND_LINKS", "uv's folders of wheels; pip uses them too unless it has its own.")
WEIGHTS_MIRRORS = Variable(
    "PACKAGER_WEIGHTS_MIRRORS",
    "Comma-separated `PREFIX=PREFIX` pairs of addresses, such as `hf://OWNER=file:///mnt/mirror/OWNER`: where to read "
    "weights from instead. The lock says which bytes are accepted.",
)
XDG_CACHE_HOME = Variable("XDG_CACHE_HOME", "Folder of caches; default `~/.cache`.")

ALL: tuple[Variable, ...] = (
    API_KEY,
    API_KEYS,
    API_KEY_FILE,
    AWS_ACCESS_KEY_ID,
    AWS_DEFAULT_REGION,
    AWS_ENDPOINT_URL_S3,
    AWS_PROFILE,
    AWS_SECRET_ACCESS_KEY,
    AWS_SESSION_TOKEN,
    CACHE,
    CUDA_DEVICE_ORDER,
    CUDA_VERSION,
    CUDA_VISIBLE_DEVICES,
    DEBIAN_MIRROR,
    DOCKER_CONFIG,
    DOCKER_HOST,
    HF_ENDPOINT,
    HF_HOME,
    HF_HUB_DISABLE_IMPLICIT_TOKEN,
    HF_TOKEN,
    HF_TOKEN_PATH,
    HUGGING_FACE_HUB_TOKEN,
    LOG_LEVEL,
    LOG_PROMPTS,
    NETRC,
    NO_COLOR,
    OFFLINE,
    REGISTRY_MIRRORS,
    SSL_CERT_FILE,
    TERM,
    UV_DEFAULT_INDEX,
    UV_EXTRA_INDEX_URL,
    UV_FIND_LINKS,
    UV_INDEX,
    UV_INDEX_URL,
    VERIFY,
    WEIGHTS_MIRRORS,
    XDG_CACHE_HOME,
)


def home(environ: Mapping[str, str] | None = None) -> Path | None:
    """The user's home; None where neither HOME nor the system knows one, as in containers with a user of their own."""
    values = os.environ if environ is None else environ
    if named := values.get("HOME", ""):
        return Path(named)
    with suppress(RuntimeError):
        return Path.home()
    return None


def cache_root(environ: Mapping[str, str] | None = None) -> Path:
    """The folder of the local stores; it need not exist yet.

    Raises SettingError for a link that leads nowhere, and where nothing says a folder.
    """
    values = os.environ if environ is None else environ
    if chosen := CACHE.get(values):
        path = Path(chosen)
    elif base := values.get("XDG_CACHE_HOME", ""):
        path = Path(base) / "packager"
    elif user := home(values):
        path = user / ".cache" / "packager"
    else:
        mend = "set it to the folder of the stores, or set HOME"
        raise SettingError("nothing says where the stores are: this user has no home", where=CACHE.name, mend=mend)
    with suppress(OSError):  # what may not even be looked at is told by whoever needs it
        if path.is_symlink() and not path.exists():
            what = f"the folder of the stores is a link to {path.readlink()}, which is not there"
            mend = f"make that folder, or name another one ({CACHE.name})"
            raise SettingError(what, where=str(path), mend=mend)
    return path
