"""What the container side imports, by server and by where it loads weights from: beside its engine's requirements.

Keep in step: `packager/runtime` imports nothing else (tests/test_architecture.py compares).
"""

from collections.abc import Mapping

_RUNTIME = (
    "blake3>=1.0.5,<2",
    "httptools>=0.6.4,<1",
    "orjson>=3.10,<4",
    "prometheus-client>=0.21,<1",
    "uvicorn>=0.34,<1",
    "uvloop>=0.21,<1; sys_platform != 'win32'",
)

REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    # 1.4.40 asks for a certifi that indexes do not have; the range lets the resolver step back.
    "bentoml": ("bentoml>=1.4.39,<1.5", *_RUNTIME),
    "standalone": _RUNTIME,
    # The tensors of Triton's Python backend. Triton itself is the base's.
    "triton": ("numpy>=1.26,<3", *_RUNTIME),
}

LOADING: Mapping[str, tuple[str, ...]] = {"s3": ("botocore>=1.35,<2",)}
"""What fetching weights takes (`ship: on_load`), by the scheme of their address. Other schemes take nothing more."""

SYSTEM_PACKAGES: tuple[str, ...] = ("ca-certificates", "libc-bin", "libstdc++6", "python3")
"""Debian packages every image on a `debian` base has. The manylinux policy lets wheels (pyzmq, under bentoml)
count on libstdc++; Python itself does not bring it. libc-bin has the ldconfig that `ctypes.util.find_library`
asks, and that NVIDIA's container runtime calls."""
