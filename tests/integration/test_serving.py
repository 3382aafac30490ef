"""What one host does alone, and llama.cpp under both. The promises of both hosts: test_two_hosts.py."""

import socket

import httpx
import openai
import pytest
from fakes.gguf import write_tiny_gguf
from fakes.packages import make_package, slow_load
from fakes.serving import ProcessServer, wait_until

CHAT = {"model": "hello", "messages": [{"role": "user", "content": "one two three"}]}


def test_outside_a_container_bentoml_stays_up_to_say_that_it_is_dead(tmp_path):
    """BentoML would start a worker that ended again and again."""
    with slow_load(tmp_path) as (package, finish), ProcessServer(package, "bentoml") as server:
        wait_until(lambda: server.status("/livez") == 200, "it answers while it loads")
        finish()
        wait_until(lambda: server.status("/livez") == 503, "it is dead")
        assert server.status("/readyz") == 503


def test_our_runner_says_why_it_cannot_begin(tmp_path):
    package = make_package(tmp_path / "package")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with ProcessServer(package, port=taken.getsockname()[1]) as server:
            assert server.wait_exit() == 2
        assert "cannot listen: Address already in use" in server.output()
    with ProcessServer(package, PACKAGER_API_KEYS="short-secret") as server:
        assert server.wait_exit() == 2
    assert "the API key in entry 1 must be 16 printable ASCII characters or more" in server.output()
    assert "`openssl rand -hex 32` makes a key" in server.output()
    assert "short-secret" not in server.output()
    (package / "model/manifest.json").unlink()
    with ProcessServer(package) as server:
        assert server.wait_exit() == 2
    assert "this folder is not a package" in server.output()


@pytest.mark.parametrize(("runner", "status"), [("packager", 2), ("bentoml", 1)])
def test_what_is_no_log_level(runner, status, tmp_path):
    with ProcessServer(make_package(tmp_path / "package"), runner, PACKAGER_LOG_LEVEL="verbose") as server:
        assert server.wait_exit() == status
    assert "PACKAGER_LOG_LEVEL: it is 'verbose', which says nothing to packager" in server.output()


@pytest.mark.parametrize("runner", ["packager", "bentoml"])
def test_llama_cpp(runner, tmp_path):
    weights = write_tiny_gguf(tmp_path / "tiny.gguf")
    package = make_package(tmp_path / "package", engine="llama_cpp", weights=weights, options={"threads": 1})
    with ProcessServer(package, runner) as server:
        server.wait_ready()
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            chunks = list(client.chat.completions.create(**CHAT, stream=True, max_tokens=5, temperature=0))
            whole = client.chat.completions.create(**CHAT, max_tokens=5, temperature=0)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
        assert whole.usage.completion_tokens == 5
        with httpx.stream(
            "POST", server.url + "/predict", json={"prompt": "long ago", "stream": True}, timeout=60
        ) as answer:
            next(answer.iter_bytes())
        wait_until(lambda: server.metric("packager_requests_running ") == 0, "the slot is free")
        server.terminate()
        assert server.wait_exit() == 0
