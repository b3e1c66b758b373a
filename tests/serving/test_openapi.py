"""The OpenAPI document tells the truth, and nothing that it allows breaks the server."""

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.live import live

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def test_every_path_and_status_is_described(app: FastAPI) -> None:
    document = app.openapi()
    operations = {
        path: operation for path, methods in document["paths"].items() for operation in methods.values()
    }
    assert set(operations) >= {
        *("/v1/rerank", "/v2/rerank", "/rerank", "/score", "/v1/score"),
        *("/health", "/ready", "/info", "/v1/models"),
    }
    for path, operation in operations.items():
        for status, response in operation["responses"].items():
            assert response["description"], (path, status)
            assert all(each["schema"] for each in response["content"].values()), (path, status)
    for path in ("/v1/rerank", "/rerank", "/score"):
        assert {"400", "401", "404", "413", "415", "422", "429", "503", "504"} <= set(
            operations[path]["responses"]
        )
        assert {each["name"] for each in operations[path]["parameters"]} == {
            "X-Request-Timeout-Ms",
            "X-Request-ID",
        }
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    shapes = operations["/rerank"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert len(shapes) == 2


# A deadline of a millisecond is rightly a 504.
PATIENT = {"X-Request-Timeout-Ms": "30000"}
SETTINGS = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_generated_requests_find_no_server_error(app: FastAPI, mode: GenerationMode) -> None:
    seen: set[tuple[str, int]] = set()
    with live(app) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        for operation in (found.ok() for found in schema.get_all_operations()):
            if mode is GenerationMode.NEGATIVE and operation.method == "get":
                continue  # nothing to get wrong

            @SETTINGS
            @given(case=operation.as_strategy(mode, headers=PATIENT))
            def check(case: Case) -> None:
                reply = case.call_and_validate(checks=CHECKS)
                seen.add((case.path, reply.status_code))

            check()
    wanted = 200 if mode is GenerationMode.POSITIVE else 400
    assert {path for path, status in seen if status == wanted} >= {"/v1/rerank", "/v2/rerank", "/rerank"}
