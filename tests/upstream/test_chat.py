"""Chat routes with tools: what engines make of them, repaired. Scripted answers over real sockets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from gateway.errors import EngineError, GatewayError, InvalidRequest, NotSupported, Overloaded
from gateway.schemas import ChatTurn, Clocks, Completed, Conversation, Token, Tool, ToolCall
from gateway.upstream.base import EngineClient, SuspectEngineError, Truncated
from gateway.upstream.openai import OpenAiEngine
from gateway.upstream.tgi import TgiEngine

CLOCKS = Clocks(5.0, 5.0, 5.0, 5.0)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER, CLOCK = Tool("weather", SCHEMA, "of a city"), Tool("clock", {"type": "object"})
ASK = ChatTurn("user", "the secret of the prompt")
SAID = Conversation((ASK,), (WEATHER, CLOCK))
DONE = b"10\r\ndata: [DONE]\n\n\n\r\n"
END: list[Any] = [DONE, "END"]
USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}}

LLAMA = ("200 OK", {"data": [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 512}}]})
VLLM = ("200 OK", {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]})
KNOWS = ("200 OK", {"chat_template_caps": {"supports_tools": True}})
KNOWS_NOT = ("200 OK", {"chat_template_caps": {"supports_tools": False}})


def chunk(reason: str | None = None, /, **delta: Any) -> dict[str, Any]:
    """A chunk, with every key that TGI writes."""
    choice = {"index": 0, "delta": {"role": "assistant", **delta}, "logprobs": None, "finish_reason": reason}
    return {"object": "chat.completion.chunk", "id": "", "choices": [choice], "usage": None}


def call(
    arguments: Any, name: str | None = None, *, index: int | None = 0, call_id: str = "0"
) -> dict[str, Any]:
    piece = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    return chunk(tool_calls=[piece if index is None else {"index": index, **piece}])


WHOLE = [call("{", "weather"), call('"city":'), call(' "Rome"'), call("}")]


@pytest.fixture
def vllm(client: httpx.AsyncClient) -> OpenAiEngine:
    return OpenAiEngine(client)


async def collect(
    engine: EngineClient,
    url: str,
    said: Conversation = SAID,
    parameters: Mapping[str, object] | None = None,
    *,
    logprobs: bool = False,
) -> tuple[list[Token], Completed]:
    async with engine.chat(url, said, parameters or {}, CLOCKS, logprobs=logprobs) as pieces:
        found = [piece async for piece in pieces]
    *tokens, done = found
    assert isinstance(done, Completed)
    assert all(isinstance(token, Token) for token in tokens)
    return tokens, done  # type: ignore[return-value]


async def broken(
    engine: EngineClient,
    url: str,
    said: Conversation = SAID,
    parameters: Mapping[str, object] | None = None,
    **more: Any,
) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await collect(engine, url, said, parameters, **more)
    assert "secret" not in str(caught.value)
    return caught.value


def deltas(tokens: list[Token]) -> list[tuple[int, str | None, str]]:
    """Index, name and arguments of every piece."""
    return [(one.call.index, one.call.name, one.call.arguments) for one in tokens if one.call is not None]


# ---------------------------------------------------------------- TGI's faults


async def test_a_call_of_tgi_gets_one_id_one_name_and_the_reason_that_clients_know(
    serve: Any, tgi: TgiEngine
) -> None:
    async with serve(["STREAM", *WHOLE, chunk("stop", content=""), USAGE, *END]) as engine:
        tokens, done = await collect(tgi, engine.url)

    assert deltas(tokens) == [(0, "weather", "{"), (0, None, '"city":'), (0, None, ' "Rome"'), (0, None, "}")]
    [whole] = done.tool_calls
    assert (whole.name, json.loads(whole.arguments)) == ("weather", {"city": "Rome"})
    assert len(whole.id) > 10
    ids = [token.call.id for token in tokens if token.call is not None]
    assert ids == [whole.id, None, None, None]
    assert (done.finish_reason, done.completion_tokens, done.prompt_tokens) == ("tool_calls", 4, 9)
    assert done.text == ""


async def test_what_tgi_is_sent_has_no_null_no_presence_penalty_and_no_stop(
    serve: Any, tgi: TgiEngine
) -> None:
    given = {"max_new_tokens": 7, "stop": ["x"], "do_sample": False, "top_p": None, "frequency_penalty": 0.5}
    earlier = ToolCall("c1", "weather", '{"city":"Oslo"}')
    turns = (
        ASK,
        ChatTurn("assistant", "", (earlier,)),
        ChatTurn("tool", "cold", tool_call_id="c1"),
        ChatTurn("assistant", "Wait.", (ToolCall("c2", "clock", "{}"),)),
        ChatTurn("tool", "noon", tool_call_id="c2"),
    )
    async with serve(["STREAM", *WHOLE, chunk("stop", content=""), *END]) as engine:
        await collect(tgi, engine.url, Conversation(turns, (WEATHER,), "required", "weather"), given)
        path, _, body = engine.requests[0]

    assert path == "/v1/chat/completions"
    assert {name: body.get(name) for name in ("max_tokens", "temperature", "frequency_penalty", "model")} == {
        "max_tokens": 7, "temperature": 0.0, "frequency_penalty": 0.5, "model": "tgi"
    }  # fmt: skip
    assert not {"stop", "presence_penalty", "top_p", "n"} & body.keys()
    assert None not in body.values()
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    _, called, result, talked, _ = body["messages"]
    assert "content" not in called  # with a content, TGI would not look at the calls
    assert called["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo"}'
    assert result == {"role": "tool", "content": "cold", "tool_call_id": "c1"}
    assert talked["content"].startswith("Wait.\n")
    assert '"clock"' in talked["content"]


@pytest.mark.parametrize("with_reason", [True, False])
async def test_a_call_without_any_reason_behind_it_is_a_call(
    serve: Any, tgi: TgiEngine, with_reason: bool
) -> None:
    reason = [chunk("stop", content="")] if with_reason else []
    async with serve(["STREAM", *WHOLE, *reason, *END]) as engine:
        _, done = await collect(tgi, engine.url)
    assert (done.finish_reason, len(done.tool_calls)) == ("tool_calls", 1)


async def test_a_call_that_ends_in_the_middle_is_truncated(serve: Any, tgi: TgiEngine) -> None:
    async with serve(["STREAM", *WHOLE[:2], *END]) as engine:
        assert isinstance(await broken(tgi, engine.url), Truncated)


async def test_a_call_that_is_cut_off_at_its_length_says_so(serve: Any, tgi: TgiEngine) -> None:
    async with serve(["STREAM", *WHOLE[:2], chunk("length", content=""), *END]) as engine:
        _, done = await collect(tgi, engine.url)
    assert (done.finish_reason, done.tool_calls[0].arguments) == ("length", '{"city":')


async def test_arguments_as_an_object_and_a_call_without_a_list_are_understood(
    serve: Any, tgi: TgiEngine
) -> None:
    function = {"name": "weather", "arguments": {"city": "Köln"}}
    single = chunk(tool_calls={"index": 0, "id": "", "type": "function", "function": function})
    async with serve(["STREAM", single, chunk("stop", content=""), *END]) as engine:
        _, done = await collect(tgi, engine.url)
    assert done.tool_calls[0].arguments == '{"city":"Köln"}'


async def test_the_grammar_that_old_tgi_streams_becomes_a_call(serve: Any, tgi: TgiEngine) -> None:
    text = '{"function": {"_name": "weather", "city": "Rome"}}'
    pieces = [call(text[at : at + 9], call_id="") for at in range(0, len(text), 9)]
    async with serve(["STREAM", *pieces, chunk("eos_token", content=""), *END]) as engine:
        tokens, done = await collect(tgi, engine.url)
    assert deltas(tokens) == [(0, "weather", '{"city":"Rome"}')]
    assert (done.finish_reason, done.tool_calls[0].name) == ("tool_calls", "weather")


@pytest.mark.parametrize(
    "pieces",
    [
        [call('{"error":', "notify_error"), call('"I cannot."}')],
        [call('{"function": {"_name": "notify_error", "error": "I cannot."}}')],
        [call('{"function": {"_name": "no_tool", "content": "I cannot."}}')],
    ],
    ids=["notify_error", "in the grammar", "no_tool"],
)
async def test_a_function_of_tgis_own_is_an_answer_in_words(serve: Any, tgi: TgiEngine, pieces: Any) -> None:
    async with serve(["STREAM", *pieces, chunk("stop", content=""), *END]) as engine:
        tokens, done = await collect(tgi, engine.url)
    assert [token.text for token in tokens] == ["I cannot."]
    assert (done.text, done.tool_calls, done.finish_reason) == ("I cannot.", (), "eos_token")


async def test_a_tool_of_the_clients_own_by_that_name_is_a_tool(serve: Any, tgi: TgiEngine) -> None:
    said = Conversation((ASK,), (Tool("no_tool", {"type": "object"}),))
    async with serve(["STREAM", call("{}", "no_tool"), chunk("stop", content=""), *END]) as engine:
        _, done = await collect(tgi, engine.url, said)
    assert [one.name for one in done.tool_calls] == ["no_tool"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Input validation error: `inputs` must have less than 4 tokens", InvalidRequest),
        ("Tool error: Tool with name x not found", InvalidRequest),
        ("Request failed during generation: Server error: CUDA out of memory", SuspectEngineError),
        ("Model is overloaded", Overloaded),
        ("Incomplete generation", SuspectEngineError),
        ("something else", EngineError),
    ],
)
async def test_an_error_in_the_stream_is_what_it_says_and_not_always_422(
    serve: Any, tgi: TgiEngine, said: str, kind: type[GatewayError]
) -> None:
    error = {"error": {"message": said, "http_status_code": 422}}
    async with serve(["STREAM", chunk(content="Well"), error, *END]) as engine:
        assert isinstance(await broken(tgi, engine.url), kind)


async def test_an_error_before_the_stream_keeps_its_type(serve: Any, tgi: TgiEngine) -> None:
    body = {"error": "Template error: no", "error_type": "template_error"}
    async with serve([("422 U", body)]) as engine:
        error = await broken(tgi, engine.url)
    assert isinstance(error, InvalidRequest)
    assert "Template error" in error.message


async def test_stop_strings_end_what_is_said_and_the_engine_is_let_go(serve: Any, tgi: TgiEngine) -> None:
    async with serve(["STREAM", chunk(content="one tw"), chunk(content="o three"), "HOLD"]) as engine:
        tokens, done = await collect(tgi, engine.url, parameters={"stop": ["two"]})
        await engine.left.wait()
    assert "".join(token.text for token in tokens) == done.text == "one two"
    assert done.finish_reason == "stop_sequence"


async def test_who_leaves_closes_the_connection(serve: Any, tgi: TgiEngine) -> None:
    async with serve(["STREAM", *WHOLE[:2], "HOLD"]) as engine:
        async with tgi.chat(engine.url, SAID, {}, CLOCKS) as pieces:
            await anext(pieces)
        await engine.left.wait()


async def test_a_demand_that_is_not_met_is_an_error(serve: Any, tgi: TgiEngine) -> None:
    said = Conversation((ASK,), (WEATHER,), "required")
    async with serve(["STREAM", chunk(content="Sunny."), chunk("stop", content=""), *END]) as engine:
        error = await broken(tgi, engine.url, said)
    assert (error.field, error.status) == ("tool_choice", 422)


async def test_what_the_chat_route_has_no_field_for_is_refused_before_anything_is_sent(
    tgi: TgiEngine,
) -> None:
    error = await broken(tgi, "http://127.0.0.1:1", parameters={"top_k": 5})
    assert (type(error), error.field) == (NotSupported, "parameters.top_k")
    grammar = {"type": "json", "value": SCHEMA}
    error = await broken(tgi, "http://127.0.0.1:1", parameters={"grammar": grammar})
    assert error.field == "parameters.grammar"


async def test_a_form_of_the_answer_goes_along_where_no_tool_is_offered(serve: Any, tgi: TgiEngine) -> None:
    grammar = {"type": "json", "value": SCHEMA}
    said = Conversation((ASK,), (), "none")
    async with serve(["STREAM", chunk(content="{}"), chunk("stop", content=""), *END]) as engine:
        await collect(tgi, engine.url, said, {"grammar": grammar})
        body = engine.requests[0][2]
    assert body["response_format"] == grammar
    assert "tools" not in body


# ---------------------------------------------------------------- the kind openai


@pytest.mark.parametrize("same_index", [True, False])
async def test_several_calls_keep_their_ids_whatever_their_indexes(
    serve: Any, vllm: OpenAiEngine, same_index: bool
) -> None:
    second = 0 if same_index else 5
    parts = [call('{"city":"A"}', "weather", call_id="a"), call("{}", "clock", index=second, call_id="b")]
    async with serve([VLLM], ["STREAM", *parts, chunk("tool_calls"), USAGE, *END]) as engine:
        tokens, done = await collect(vllm, engine.url)
    assert deltas(tokens) == [(0, "weather", '{"city":"A"}'), (1, "clock", "{}")]
    assert [(one.id, one.name) for one in done.tool_calls] == [("a", "weather"), ("b", "clock")]


async def test_ids_that_are_empty_or_were_used_before_are_replaced(serve: Any, vllm: OpenAiEngine) -> None:
    earlier = ChatTurn("assistant", "", (ToolCall("a", "clock", "{}"),))
    said = Conversation((ASK, earlier, ChatTurn("tool", "noon", tool_call_id="a"), ASK), (WEATHER, CLOCK))
    parts = [
        call("{}", "clock", index=0, call_id="a"),
        call("{}", "clock", index=1, call_id=""),
        call("{}", "clock", index=2, call_id="b"),
        call("{}", "clock", index=3, call_id="b"),
    ]
    async with serve([VLLM], ["STREAM", *parts, chunk("tool_calls"), *END]) as engine:
        _, done = await collect(vllm, engine.url, said)
    ids = [one.id for one in done.tool_calls]
    assert len(set(ids)) == 4
    assert "a" not in ids
    assert "" not in ids
    assert ids[2] == "b"


async def test_one_call_at_most_is_kept_where_the_engine_makes_more(serve: Any, vllm: OpenAiEngine) -> None:
    parts = [call("{}", "clock", call_id="a"), call("{}", "clock", index=1, call_id="b"), call("x", index=1)]
    async with serve([VLLM], ["STREAM", *parts, chunk("tool_calls"), *END]) as engine:
        tokens, done = await collect(vllm, engine.url, Conversation((ASK,), (CLOCK,), parallel=False))
        body = engine.requests[1][2]
    assert deltas(tokens) == [(0, "clock", "{}")]
    assert len(done.tool_calls) == 1
    assert body["parallel_tool_calls"] is False


async def test_a_call_without_arguments_gets_an_empty_object(serve: Any, vllm: OpenAiEngine) -> None:
    async with serve([VLLM], ["STREAM", call("", "clock", call_id="a"), chunk("stop"), *END]) as engine:
        tokens, done = await collect(vllm, engine.url)
    assert deltas(tokens) == [(0, "clock", ""), (0, None, "{}")]
    assert (done.finish_reason, done.tool_calls[0].arguments) == ("tool_calls", "{}")


async def test_texts_with_their_log_probabilities_come_before_a_call(serve: Any, vllm: OpenAiEngine) -> None:
    entry = {"token": "Well", "logprob": -0.5, "top_logprobs": [{"token": "Well", "logprob": -0.5}]}
    said = chunk(content="Well")
    said["choices"][0]["logprobs"] = {"content": [entry]}
    async with serve([VLLM], ["STREAM", said, call("{}", "clock"), chunk("tool_calls"), *END]) as engine:
        tokens, done = await collect(vllm, engine.url, parameters={"top_n_tokens": None}, logprobs=True)
        body = engine.requests[1][2]
    assert (tokens[0].text, tokens[0].logprob) == ("Well", -0.5)
    assert (done.text, done.finish_reason) == ("Well", "tool_calls")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0)


async def test_llama_cpp_is_asked_once_whether_its_template_knows_tools(
    serve: Any, vllm: OpenAiEngine
) -> None:
    answer = ["STREAM", call("{}", "clock"), chunk("tool_calls"), *END]
    async with serve([LLAMA], [KNOWS], answer, answer) as engine:
        assert vllm.capabilities(engine.url) == {}
        await collect(vllm, engine.url)
        await collect(vllm, engine.url)
        assert [path for path, _, _ in engine.requests] == [
            "/v1/models", "/props", "/v1/chat/completions", "/v1/chat/completions"
        ]  # fmt: skip
        assert vllm.capabilities(engine.url)["tools"]


async def test_llama_cpp_would_leave_tools_out_without_a_word_and_is_not_asked(
    serve: Any, vllm: OpenAiEngine
) -> None:
    async with serve([LLAMA], [KNOWS_NOT]) as engine:
        error = await broken(vllm, engine.url)
        assert (type(error), error.field) == (NotSupported, "tools")
        assert vllm.capabilities(engine.url)["tools"] is False


async def test_llama_cpp_reads_no_name_in_tool_choice_so_that_tool_alone_is_offered(
    serve: Any, vllm: OpenAiEngine
) -> None:
    said = Conversation((ASK,), (WEATHER, CLOCK), "required", "clock")
    async with serve([LLAMA], [KNOWS], ["STREAM", call("{}", "clock"), chunk("tool_calls"), *END]) as engine:
        await collect(vllm, engine.url, said)
        body = engine.requests[2][2]
    assert body["tool_choice"] == "required"
    assert [tool["function"]["name"] for tool in body["tools"]] == ["clock"]


async def test_a_form_beside_tools_goes_to_engines_that_take_both_and_no_others(
    serve: Any, vllm: OpenAiEngine
) -> None:
    grammar = {"grammar": {"type": "json", "value": SCHEMA}}
    async with serve([VLLM], ["STREAM", call("{}", "clock"), chunk("tool_calls"), *END]) as engine:
        await collect(vllm, engine.url, parameters=grammar)
        assert engine.requests[1][2]["response_format"]["type"] == "json_schema"
    async with serve([LLAMA], [KNOWS]) as engine:
        assert (await broken(vllm, engine.url, parameters=grammar)).field == "parameters.grammar"


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (["STREAM", chunk(content="x"), "END"], Truncated),
        (["STREAM", chunk(content="x"), "RESET"], Truncated),
        (["STREAM", chunk(content="x"), chunk("abort"), *END], SuspectEngineError),
        (["STREAM", chunk(content="x"), *END], Truncated),
        (["STREAM", chunk(content=5), *END], EngineError),
        (["STREAM", chunk(tool_calls=["x"]), *END], EngineError),
        (["STREAM", {"error": {"message": "no", "code": 400}}, *END], InvalidRequest),
        ([("400 B", {"error": {"message": "no", "type": "BadRequestError"}})], InvalidRequest),
    ],
    ids=["ended", "reset", "aborted", "no reason", "content", "calls", "error event", "refusal"],
)
async def test_a_broken_answer_is_the_error_that_it_is(
    serve: Any, vllm: OpenAiEngine, steps: list[Any], kind: type[GatewayError]
) -> None:
    async with serve([VLLM], steps) as engine:
        assert isinstance(await broken(vllm, engine.url), kind)


async def test_a_conversation_is_counted_where_the_engine_can(serve: Any, tgi: TgiEngine, vllm: Any) -> None:
    listed = ("200 OK", {"tokenize_response": [{}, {}, {}], "templated_text": "abc"})
    async with serve([listed], [("404 N",)]) as engine:
        assert await tgi.count_chat(engine.url, SAID) == 3
        assert await tgi.count_chat(engine.url, SAID) is None
        assert engine.requests[0][2]["tools"]
    async with serve([LLAMA], [("200 OK", {"prompt": "abc"})], [("200 OK", {"tokens": [1, 2]})]) as engine:
        assert await vllm.count_chat(engine.url, SAID) == 2
        assert engine.requests[2][2]["content"] == "abc"
    async with serve([VLLM], [("200 OK", {"tokens": [1, 2, 3, 4]})]) as engine:
        assert await vllm.count_chat(engine.url, SAID) == 4
