"""The page at /chat, in a real browser against a real server."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.engines import HeldEngine
from fakes.machine import missing
from fakes.serving import PATIENCE, ThreadServer, make_manifest, thread_server, wait_until

from packager.errors import EngineError
from packager.runtime.engine import Delta, Usage
from packager.runtime.metrics import Metrics
from packager.runtime.supervise import Supervisor

BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        missing("no Chromium on PATH (Debian package chromium-headless-shell; .ci/run installs it)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=QUIET, timeout=PATIENCE * 1000)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path: Path):
    """Open the page of a server with this engine, or the echo engine with these options; gives the page and the server."""
    open_ones = []

    def open_page(width: int = 1100, engine: HeldEngine | None = None, **options):
        server = thread_server(tmp_path, **options) if engine is None else ThreadServer(supervisor_of(engine))
        server.__enter__()
        server.wait_ready()
        page = browser.new_page(viewport={"width": width, "height": 760})
        page.set_default_timeout(PATIENCE * 1000)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if "Security" in line.text else None)
        page.goto(f"{server.url}/chat")
        page.get_by_text("ready", exact=True).wait_for()
        open_ones.append((page, server, faults))
        return page, server

    yield open_page
    for page, server, faults in open_ones:
        page.close()
        server.__exit__()
        assert faults == []


def ask(page, text: str = WORDS) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def supervisor_of(engine: HeldEngine) -> Supervisor:
    async def loader():
        return engine, await engine.start()

    return Supervisor(make_manifest(), loader, Metrics())


def give(server: ThreadServer, engine: HeldEngine, *items: Delta | Exception | None) -> None:
    """Have the engine go on with the one request that is open: it does nothing by itself, however slow the browser is."""
    wait_until(lambda: len(engine.tokens) == 1, "the request has come")
    server.call_soon(lambda: engine.give(*engine.tokens, *items))


def wait_for_answer(page, text: str) -> None:
    page.locator(".turn.assistant .text", has_text=re.compile(f"^{text}$")).wait_for()


def test_an_answer_streams_and_says_how_fast(open_page) -> None:
    page, server = open_page(engine=(engine := HeldEngine()))
    ask(page)
    give(server, engine, Delta("one", 1), Delta(" two", 1))
    wait_for_answer(page, "one two")  # it is shown while it comes
    give(server, engine, Delta(" three", 1), Delta("", 0, "stop", Usage(2, 3)), None)
    page.get_by_role("button", name="Send").wait_for()
    wait_for_answer(page, "one two three")
    foot = page.locator(".turn.assistant .foot").text_content()
    assert foot.startswith("3 tokens · ")
    assert "tokens/s" in foot
    assert "first after" in foot


def test_the_conversation_and_the_settings_are_sent(open_page) -> None:
    page, _ = open_page()
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    page.get_by_label("System prompt").fill("be brief")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Most tokens").fill("3")
    for text in ("a b c d", "again"):
        ask(page, text)
        page.get_by_role("button", name="Send").wait_for()
    first, second = bodies
    assert (first["temperature"], first["max_tokens"], first["stream"]) == (0.5, 3, True)
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == "a b c"
    assert "ended at its limit" in page.locator(".turn.assistant .foot").first.text_content()


def test_stop_frees_the_slot_and_keeps_what_came(open_page) -> None:
    page, server = open_page(engine=(engine := HeldEngine()))
    ask(page)
    give(server, engine, Delta("one", 1))
    wait_for_answer(page, "one")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Send").wait_for()
    wait_until(lambda: server.supervisor.metrics.running == 0, "the slot is free")
    assert "stopped" in page.locator(".turn.assistant .foot").text_content()
    wait_for_answer(page, "one")


def test_a_stream_that_breaks_off_says_so(open_page) -> None:
    page, server = open_page(engine=(engine := HeldEngine()))
    ask(page)
    give(server, engine, Delta("one", 1), Delta(" two", 1))
    wait_for_answer(page, "one two")
    give(server, engine, EngineError("broken"))
    error = page.locator(".turn.assistant .error")
    error.wait_for()
    assert "not complete" in error.text_content()
    wait_for_answer(page, "one two")


def test_a_refusal_is_shown(open_page) -> None:
    page, _ = open_page(context_length=4)
    ask(page)
    error = page.locator(".turn.assistant .error")
    error.wait_for()
    assert "the context holds 4" in error.text_content()


def test_text_is_text(open_page) -> None:
    page, _ = open_page()
    ask(page, "<img src=x onerror=alert(1)> &amp;")
    page.get_by_role("button", name="Send").wait_for()
    assert page.locator(".turn.assistant .text").text_content() == "<img src=x onerror=alert(1)> &amp;"
    assert page.locator(".turn img").count() == 0


def test_it_fits_a_phone(open_page) -> None:
    page, _ = open_page(width=380)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert not page.get_by_label("Temperature").is_visible()
    page.get_by_role("button", name="Settings").click()
    assert page.get_by_label("Temperature").is_visible()
