"""What the gateway answers on TGI's routes, held against TGI's own OpenAPI document.

Where TGI's code does not do what its document says, the code counts: ``CODE_WINS``, and what follows here.

* The document has ``details`` true unless said otherwise; in the code it is false.
* The document gives a stream that cannot begin a status of its own, with an event as the body; the code sends
  200 and that event. The gateway sends the status, as every client sees it, and JSON.
* The document leaves out ``/ping``, which the gateway has, and ``/vertex``, which it has not.

Where the gateway differs from both:

* An answer that breaks off is 424, not 500, which here means that the gateway itself is at fault.
* An error is always JSON. TGI answers with plain text or with nothing where it cannot read a body.
* A model that is away may have ``null`` for its limits: before its engine was in, nobody knows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from harness import Running, events_of, model, owned, start_echo, start_gateway, until

DOCUMENT = json.loads((Path(__file__).parent.parent / "reference" / "tgi-openapi.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]
HELLO = "hello brave new world"

CODE_WINS = {
    "top_p 1 is refused": ({"top_p": 1.0}, 422),
    "typical_p 1 is refused": ({"typical_p": 1.0}, 422),
    "frequency_penalty ends at 2": ({"frequency_penalty": 2.5}, 422),
    "frequency_penalty begins at -2 itself": ({"frequency_penalty": -2.0}, 200),
    "max_new_tokens 0 is refused": ({"max_new_tokens": 0}, 422),
    "truncate 0 is refused": ({"truncate": 0}, 422),
    "a seed may be 0": ({"seed": 0}, 200),
    "top_n_tokens may be 0": ({"top_n_tokens": 0}, 200),
}
"""``parameters`` that the document allows and the code refuses, or the other way round."""


def as_json_schema(node: Any) -> Any:
    """OpenAPI 3.0 says ``nullable`` where JSON Schema has a type of its own."""
    if isinstance(node, list):
        return [as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {name: as_json_schema(value) for name, value in node.items() if name != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def hold(body: Any, schema: dict[str, Any]) -> None:
    """Raises ValidationError where ``body`` is not as TGI's document says."""
    whole = {"components": {"schemas": as_json_schema(SCHEMAS)}, **as_json_schema(schema)}
    jsonschema.Draft202012Validator(whole).validate(body)


def documented(path: str, method: str, status: int, kind: str = "application/json") -> dict[str, Any]:
    return dict(DOCUMENT["paths"][path][method]["responses"][str(status)]["content"][kind]["schema"])


def events_in(response: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Models whose engines die in the middle of an answer, that are full, away, and that nobody runs."""
    folder = tmp_path_factory.mktemp("faulty")
    dying = [start_echo(folder, fail="mid-stream", fail_after_tokens=2) for _ in range(2)]
    slow = start_echo(folder, tokens_per_s=20)
    registry = {
        "models": [
            *(model(engine.url, id=f"dying-{number}") for number, engine in enumerate(dying)),
            model(slow.url, id="full", limits={"max_concurrent": 1, "max_queue": 0}),
            owned("away"),
            model("http://127.0.0.1:1", id="nobody", probes={"interval_s": 0.2}),
        ]
    }
    running = start_gateway(folder, registry)
    yield running
    for one in (running, slow, *dying):
        one.stop()


ANSWERS = [
    {},
    {"details": True},
    {"details": True, "seed": 3, "do_sample": True},
    {"details": True, "stop": ["new"]},
    {"details": True, "top_n_tokens": 2},
    {"details": True, "best_of": 2, "do_sample": True},
    {"return_full_text": True, "max_new_tokens": 2},
]


@pytest.mark.parametrize("given", ANSWERS, ids=lambda given: " ".join(given) or "plain")
@pytest.mark.parametrize("path", ["/generate", "/"])
async def test_whole_answer_is_as_documented(
    client: httpx.AsyncClient, path: str, given: dict[str, Any]
) -> None:
    response = await client.post(path, json={"inputs": HELLO, "parameters": given})

    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    hold(response.json(), documented(path, "post", 200))


@pytest.mark.parametrize("given", [one for one in ANSWERS if "best_of" not in one])
@pytest.mark.parametrize("path", ["/generate_stream", "/"])
async def test_every_event_of_a_stream_is_as_documented(
    client: httpx.AsyncClient, path: str, given: dict[str, Any]
) -> None:
    response = await client.post(path, json={"inputs": HELLO, "stream": True, "parameters": given})

    events = events_in(response)
    assert response.headers["content-type"] == "text/event-stream"
    assert events[-1]["generated_text"]
    for event in events:
        hold(event, documented(path, "post", 200, "text/event-stream"))


async def test_tokens_info_and_health_are_as_documented(client: httpx.AsyncClient) -> None:
    tokens = await client.post("/tokenize", json={"inputs": "你好 world"})
    hold(tokens.json(), documented("/tokenize", "post", 200))
    chat = await client.post("/chat_tokenize", json={"messages": [{"role": "user", "content": "hi"}]})
    hold(chat.json(), documented("/chat_tokenize", "post", 200))
    hold((await client.get("/info")).json(), documented("/info", "get", 200))
    assert (await client.get("/models/echo/health")).content == b""


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/generate", {"inputs": HELLO, "parameters": {"top_k": 0}}, 422),
        ("/generate", {"inputs": "word " * 3000}, 422),
        ("/", {"inputs": ""}, 422),
    ],
)
async def test_refusal_is_as_documented(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int
) -> None:
    response = await client.post(path, json=body)

    assert response.status_code == status
    hold(response.json(), documented(path, "post", status))
    assert response.json()["error_type"] == "validation"


@pytest.mark.parametrize(("given", "status"), CODE_WINS.values(), ids=CODE_WINS)
async def test_parameters_follow_the_code_where_the_document_differs(
    client: httpx.AsyncClient, given: dict[str, Any], status: int
) -> None:
    schema = {"$ref": "#/components/schemas/GenerateParameters"}
    if status == 200:
        with pytest.raises(jsonschema.ValidationError):
            hold(given, schema)
    else:
        hold(given, schema)

    assert (await client.post("/generate", json={"inputs": HELLO, "parameters": given})).status_code == status


async def test_details_are_left_out_unless_asked_for(client: httpx.AsyncClient) -> None:
    """The document has ``true`` for a default; the code has false."""
    for parameters in (None, {}, {"max_new_tokens": 2}):
        answer = await client.post("/generate", json={"inputs": HELLO, "parameters": parameters})
        assert answer.json().keys() == {"generated_text"}


def test_generation_that_fails_is_as_documented(faulty: Running) -> None:
    ask = {"inputs": HELLO}
    broken = httpx.post(f"{faulty.url}/models/dying-0/generate", json=ask, timeout=20)
    assert broken.status_code == 424
    hold(broken.json(), documented("/generate", "post", 424))
    assert broken.json()["error_type"] in ("generation", "incomplete_generation")

    *said, error = events_in(httpx.post(f"{faulty.url}/models/dying-1/generate_stream", json=ask, timeout=20))
    assert said
    for event in said:
        hold(event, documented("/generate_stream", "post", 200, "text/event-stream"))
    hold(error, documented("/generate_stream", "post", 424, "text/event-stream"))


def test_model_that_is_down_is_unhealthy_as_documented(faulty: Running) -> None:
    def unhealthy() -> httpx.Response | None:
        answer = faulty.get("/models/nobody/health")
        return answer if answer.status_code == 503 else None

    answer = until(unhealthy, "the probes to have failed")
    hold(answer.json(), documented("/health", "get", 503))
    assert answer.json()["error_type"] == "healthcheck"


async def test_overload_is_as_documented(faulty: Running) -> None:
    async with (
        httpx.AsyncClient(base_url=f"{faulty.url}/models/full", timeout=20) as client,
        client.stream("POST", "/generate_stream", json={"inputs": HELLO * 50}) as first,
    ):
        events = events_of(first)
        await anext(events)
        for path in ("/generate", "/generate_stream"):
            refused = await client.post(path, json={"inputs": HELLO})

            assert (refused.status_code, refused.headers["content-type"]) == (429, "application/json")
            hold(refused.json(), {"$ref": "#/components/schemas/ErrorResponse"})
            assert refused.json()["error_type"] == "overloaded"


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/tokenize", "/chat_tokenize", "/"])
@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [(b"{", "application/json", 400), (b"{}", "application/json", 422), (b"x", "text/plain", 415)],
)
async def test_body_that_cannot_be_read_gets_tgis_envelope(
    client: httpx.AsyncClient, path: str, content: bytes, kind: str, status: int
) -> None:
    response = await client.post(path, content=content, headers={"content-type": kind})

    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    hold(response.json(), {"$ref": "#/components/schemas/ErrorResponse"})


def test_model_that_is_away_says_what_is_known(faulty: Running) -> None:
    info = faulty.get("/models/away/info").json()

    unknown = {name for name in ("max_input_tokens", "max_total_tokens") if info[name] is None}
    assert unknown == {"max_input_tokens", "max_total_tokens"}
    hold({**info, **dict.fromkeys(unknown, 1)}, documented("/info", "get", 200))
