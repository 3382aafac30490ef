"""Every constant that can change an image's bytes, in one hashed struct.

Change a field and every layer and configuration made with it may change: the test that pins this
struct's digest says when to raise `LAYER_FORMAT`.
"""

from dataclasses import asdict, dataclass, field

from ..digest import canonical_json, sha256_hex
from ..lock.drift import LAYER_FORMAT


@dataclass(frozen=True, slots=True)
class Envelope:
    """The shape of every image. Sizes are bytes; `user` is numeric so that no passwd file is needed."""

    layer_format: int = LAYER_FORMAT
    app: str = "app"
    cache: str = "var/cache/packager"
    user: int = 65532
    solo_wheel_bytes: int = 24_000_000
    wheel_buckets: int = 6
    solo_weights_bytes: int = 64_000_000
    env: tuple[tuple[str, str], ...] = field(
        default=(
            # Everything that engines cache goes to the one folder that is mounted writable. BentoML's files are of one
            # process, and it does not start without them: that folder may be a read-only store.
            ("BENTOML_CONTAINERIZED", "true"),
            ("BENTOML_DO_NOT_TRACK", "True"),
            ("BENTOML_HOME", "/tmp/bentoml"),  # noqa: S108  # the container's own
            ("HF_HOME", "/var/cache/packager/huggingface"),
            ("HOME", "/var/cache/packager"),
            ("LANG", "C.UTF-8"),
            ("PACKAGER_CACHE", "/var/cache/packager"),
            ("PYTHONPATH", "/app/packages"),
            ("PYTHONPYCACHEPREFIX", "/var/cache/packager/pycache"),
            ("PYTHONUNBUFFERED", "1"),
            ("TMPDIR", "/tmp"),  # noqa: S108  # the container's own
            ("TRITON_CACHE_DIR", "/var/cache/packager/triton"),
            ("USER", "packager"),
            ("XDG_CACHE_HOME", "/var/cache/packager"),
        )
    )

    def digest(self) -> str:
        """Hex sha256 of all fields."""
        return sha256_hex(canonical_json(asdict(self)))


ENVELOPE = Envelope()
