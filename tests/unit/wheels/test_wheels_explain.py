import http.server
import threading
from collections.abc import Iterator

import pytest
from packaging.version import Version

from packager.errors import ResolveError
from packager.facts import BaseFacts
from packager.wheels.explain import explain
from packager.wheels.resolve import resolve_image

# uv 0.9 draws and wraps; later versions do not. What is said must not depend on it.
DRAWN = """\
  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because only winonly==1.0 is available and winonly==1.0 has no wheels
      with a matching platform tag (e.g., `manylinux_2_36_x86_64`), we can
      conclude that your requirements are unsatisfiable.

      hint: Wheels are available for `winonly` (v1.0) on the following
      platforms: `win_arm64`, `win_amd64`
"""
CONFLICT = """\
warning: The package `x` has no extra
  \u00d7 No solution found when resolving dependencies:
  ╰─▶ Because app==1.0 depends on torch>=2.7 and torch==2.6.0, we can
      conclude that app==1.0 cannot be used.
"""


def test_drawn_text_is_read_like_plain() -> None:
    problem = explain(DRAWN, "CPython 3.11", {}).problems[0]
    assert problem.what == "winonly 1.0 has no wheel for CPython 3.11; it has wheels for: win_amd64, win_arm64"


def test_a_conflict_names_the_base_only_when_it_is_its_version() -> None:
    assert str(explain(CONFLICT, "", {"torch": Version("2.6.0")})).startswith("the base already has torch 2.6.0")
    assert str(explain(CONFLICT, "", {"torch": Version("2.5.0")})) == (
        "the requirements cannot be met: Because app==1.0 depends on torch>=2.7 and torch==2.6.0, "
        "we can conclude that app==1.0 cannot be used."
    )


def test_long_explanations_are_cut() -> None:
    assert len(str(explain("error: Because " + "x and " * 1000, "", {}))) < 1300


@pytest.fixture
def locked_index() -> Iterator[str]:
    """A package index on loopback that wants credentials."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args) -> None: ...

        def do_GET(self) -> None:
            self.send_error(401)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/simple/"
        server.shutdown()
        thread.join()


def test_an_index_that_wants_credentials(
    clients: None, locked_index: str, facts: BaseFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", locked_index)
    with pytest.raises(ResolveError) as caught:
        resolve_image(["lib"], facts)
    assert caught.value.problems[0].what == "the package index refused: 401 Unauthorized"
