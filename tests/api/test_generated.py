"""Generated requests against a whole gateway: its OpenAPI document says what is so.

Each route is asked with what its document allows, and with what it does not; every answer is held against the
document: status, content type, headers, body, each event of a stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from harness import Running, model, owned, start_gateway
from hypothesis import HealthCheck, Phase, settings
from pydantic import SecretStr
from schemathesis import Case
from schemathesis.checks import CheckContext, CheckFunction
from schemathesis.checks import not_a_server_error as any_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway.config import ModelSpec, Registry
from gateway.main import create_app
from gateway.settings import Settings

KEY = {"Authorization": "Bearer generated"}
ENDLESS = "/v1/events"
SAME_BODIES = r"^/models/|^/(invocations|generate|generate_stream|tokenize)$|/(render|count_tokens)$"
"""Their bodies are those of other routes."""


@pytest.fixture(scope="module")
def locked(fast_engine: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway that asks for a key, with a model that is there and one that comes and goes."""
    registry = {"models": [model(fast_engine.url, aliases=["mirror"], languages=["en"]), owned("sleeper")]}
    running = start_gateway(tmp_path_factory.mktemp("locked"), registry, api_key="generated")
    yield running
    running.stop()


def expected_document() -> dict[str, Any]:
    """What a gateway with a key publishes, whatever its models are."""
    registry = Registry(models=(ModelSpec(id="echo", family="chatml", url="http://127.0.0.1:1"),))
    return create_app(Settings(api_key=SecretStr("generated")), registry).openapi()


DOCUMENT = expected_document()
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path=ENDLESS)


def no_fault_of_ours(_: CheckContext, response: schemathesis.Response, __: Case) -> None:
    """Other statuses from 500 on are answers: no engine, a route that is not offered."""
    assert response.status_code != 500, response.text


def at_a_model(case: Case) -> None:
    """Names that are made up never get past 404."""
    sleeper = case.path.endswith(("load", "unload", "logs"))
    if "model_id" in (case.path_parameters or {}) and len(str(case.path_parameters["model_id"])) % 4:
        case.path_parameters["model_id"] = "sleeper" if sleeper else "echo"
    if isinstance(case.body, dict):
        for name in {"model", "model_id"} & case.body.keys():
            if isinstance(case.body[name], str) and len(case.body[name]) % 4:
                case.body[name] = "mirror"


def test_the_document_is_what_a_running_gateway_publishes(locked: Running) -> None:
    assert httpx.get(f"{locked.url}/openapi.json", headers=KEY, timeout=10).json() == DOCUMENT


LIMITS = settings(max_examples=3, derandomize=True, database=None, deadline=None)
LIMITS = settings(LIMITS, suppress_health_check=list(HealthCheck))


def ask(case: Case, locked: Running, *but: CheckFunction) -> None:
    at_a_model(case)
    case.call_and_validate(
        locked.url,
        headers=KEY,
        timeout=20,
        additional_checks=[no_fault_of_ours],
        # Rules between fields, and models that have to exist, have no place in a JSON schema.
        excluded_checks=[any_server_error, positive_data_acceptance, *but],
    )


@schema.parametrize()
@settings(LIMITS, phases=[Phase.generate])
def test_every_answer_to_what_is_made_up_is_as_documented(case: Case, locked: Running) -> None:
    ask(case, locked)


@schema.exclude(path_regex=SAME_BODIES).parametrize()
@settings(LIMITS, phases=[Phase.explicit])
def test_every_answer_at_the_limits_of_each_field_is_as_documented(case: Case, locked: Running) -> None:
    """Also methods that a path does not have, and requests without a key."""
    ask(case, locked)
