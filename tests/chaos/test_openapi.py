"""All that the OpenAPI document allows, and much that it does not: no 5xx, no undocumented status, type or shape."""

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving import PATIENCE

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]
EVENTS = "text/event-stream"  # documented as a string, but checked event by event, for which OpenAPI 3.1 has no words
EXAMPLES = 60


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_every_operation(server, mode):
    """Half of the requests name no model, so that they get further than its name."""
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = 0
    for result in document.get_all_operations():
        operation = result.ok()
        seen += 1
        if mode is GenerationMode.POSITIVE or operation.method == "post":  # the others have nothing to get wrong
            _exhaust(operation.as_strategy(generation_mode=mode))
    assert seen >= 11


def _exhaust(cases):
    @settings(max_examples=EXAMPLES)
    @given(case=cases, named=st.booleans())
    def check(case, named):
        if isinstance(case.body, dict) and not named:
            case.body.pop("model", None)
        response = case.call(timeout=PATIENCE)
        shape = [] if response.headers["content-type"][0].startswith(EVENTS) else [response_schema_conformance]
        case.validate_response(response, checks=CHECKS + shape)

    check()
