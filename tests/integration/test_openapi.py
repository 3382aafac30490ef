"""/openapi.json against the server that gives it: schemathesis asks what it describes, and what it forbids."""

import pytest
import schemathesis
from fakes.serving import thread_server
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from packager.runtime.server.describe import describe

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with thread_server(tmp_path_factory.mktemp("server"), context_length=200, max_concurrency=32) as server:
        yield server.wait_ready()


SCHEMA = schemathesis.openapi.from_dict(describe("hello", "0"))
OPERATIONS = {operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations())}


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["kept", "broken"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_what_it_says_is_so(server, label, mode):
    operation = OPERATIONS[label]
    if mode is GenerationMode.NEGATIVE and not operation.body:
        return  # a GET has nothing that could be broken

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        case.call_and_validate(base_url=server.url, checks=list(CHECKS), timeout=60)

    ask()
