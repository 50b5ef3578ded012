"""What clients send, well-formed and not; its answers' statuses, and whether they are the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from server_wire.raw import chunked, got, head, posted

BODY = {"inputs": "one two three", "parameters": {"max_new_tokens": 5, "seed": 7}}
STREAM = {**BODY, "stream": True}
TURNS = [{"role": "user", "content": "one two three"}]
CHINESE = [{"role": "system", "content": "简短。"}, {"role": "user", "content": "你好，世界！再见。"}]
CHAT: dict[str, Any] = {"model": "echo", "messages": TURNS, "max_tokens": 5, "seed": 7}
TEXT: dict[str, Any] = {"model": "mirror", "prompt": "one two three", "max_tokens": 5, "seed": 7}
MESSAGES: dict[str, Any] = {"model": "echo", "messages": TURNS, "max_tokens": 5, "temperature": 0}
ID = "x-request-id: "


@dataclass(frozen=True, slots=True)
class Case:
    """``sent`` on one connection, in one piece. ``headless``: which answers are to HEAD."""

    sent: bytes
    statuses: tuple[int, ...] = (200,)
    closes: bool = False
    headless: tuple[bool, ...] = ()


def _json(body: object) -> bytes:
    return posted("/generate", body)


ROUTES: dict[str, bytes] = {
    "tgi": posted("/generate", BODY, ID + "tgi"),
    "tgi, details": posted(
        "/generate", {**BODY, "parameters": {"details": True, "seed": 3, "max_new_tokens": 4}}
    ),
    "tgi stream": posted("/generate_stream", BODY, ID + "tgi-stream"),
    "tgi root": posted("/", BODY, ID + "root"),
    "tgi root stream": posted("/", STREAM, ID + "root-stream"),
    "tgi by model": posted("/models/echo/generate", BODY, ID + "by-model"),
    "tgi by header": posted("/generate", BODY, "x-gateway-model: mirror", ID + "by-header"),
    "native": posted("/v1/generate", BODY, ID + "native"),
    "native stream": posted("/v1/generate", STREAM, ID + "native-stream"),
    "native events": posted("/v1/generate", {**STREAM, "events": True}, ID + "native-events"),
    "chat": posted("/v1/chat/completions", CHAT, ID + "chat"),
    "chat stream": posted("/v1/chat/completions", {**CHAT, "stream": True}, ID + "chat-stream"),
    "chat in chinese": posted("/v1/chat/completions", {**CHAT, "messages": CHINESE}, ID + "chat-zh"),
    "chat stream with usage": posted(
        "/v1/chat/completions",
        {**CHAT, "messages": CHINESE, "stream": True, "stream_options": {"include_usage": True}},
        ID + "chat-usage",
    ),
    "chat with a stop string": posted("/v1/chat/completions", {**CHAT, "stop": "two"}, ID + "chat-stop"),
    "chat stream with a stop string": posted(
        "/v1/chat/completions", {**CHAT, "stop": "wo", "stream": True}, ID + "chat-stop-stream"
    ),
    "completion": posted("/v1/completions", TEXT, ID + "text"),
    "completion stream": posted("/v1/completions", {**TEXT, "stream": True}, ID + "text-stream"),
    "messages": posted("/v1/messages", MESSAGES, ID + "messages"),
    "messages stream": posted("/v1/messages", {**MESSAGES, "stream": True}, ID + "messages-stream"),
    "messages in chinese": posted("/v1/messages", {**MESSAGES, "messages": CHINESE}, ID + "messages-zh"),
    "messages stream with a stop string": posted(
        "/v1/messages", {**MESSAGES, "stream": True, "stop_sequences": ["tw", "ee"]}, ID + "messages-stop"
    ),
    "render": posted("/v1/render", {"inputs": "one two"}, ID + "render"),
    "tokenize": posted("/tokenize", {"inputs": "one two"}, ID + "tokenize"),
    "health": got("/ping", ID + "health"),
    "scenarios": got("/v1/scenarios", ID + "scenarios"),
}
"""One request each, answered with 200 on a connection that stays."""

REFUSED: dict[str, tuple[bytes, int]] = {
    "no such route": (posted("/nowhere", BODY), 404),
    "slash behind a route": (posted("/generate/", BODY), 404),
    "capital in a route": (posted("/Generate", BODY), 404),
    "no body": (got("/generate", "Content-Type: application/json", method="POST"), 400),
    "empty body": (posted("/generate", b""), 400),
    "null": (posted("/v1/generate", b"null"), 422),
    "half a body of JSON": (posted("/generate", b'{"inputs": "one'), 400),
    "not UTF-8": (posted("/generate", b'{"inputs": "\xff\xfe"}'), 400),
    "deep": (posted("/generate", b"[" * 20_000), 400),
    "unknown field": (posted("/v1/generate", {**BODY, "temperatur": 1}), 422),
    "wrong parameter": (posted("/generate", {"inputs": "one", "parameters": {"temperature": -1}}), 422),
    "no such model": (posted("/v1/generate", {**BODY, "model_id": "nobody"}), 404),
    "no such model, tgi": (posted("/generate", BODY, "x-gateway-model: nobody"), 404),
    "no such model, messages": (posted("/v1/messages", {**MESSAGES, "model": "nobody"}), 404),
    "no messages": (posted("/v1/messages", {**MESSAGES, "messages": []}), 400),
    "wrong role": (posted("/v1/chat/completions", {**CHAT, "messages": [{"role": "x"}]}), 422),
    "penalty that no engine has": (posted("/v1/chat/completions", {**CHAT, "presence_penalty": 1}), 422),
    "no such model, chat": (posted("/v1/chat/completions", {**CHAT, "model": "nobody"}), 404),
    "wrong content type": (posted("/generate", BODY, "Content-Type: text/plain"), 415),
    "no content type": (head("POST /generate HTTP/1.1", "Content-Length: 2") + b"{}", 415),
    "web page from elsewhere": (posted("/generate", BODY, "Origin: https://evil.example"), 403),
    "by another name": (posted("/generate", BODY, "Host: evil.example"), 403),
    "GET on a hot route": (got("/generate"), 405),
    "PUT on a hot route": (posted("/v1/generate", BODY).replace(b"POST", b"PUT", 1), 405),
    "OPTIONS on a hot route": (got("/generate", method="OPTIONS"), 405),
    "DELETE on a hot route": (got("/v1/chat/completions", method="DELETE"), 405),
}
"""One request each, refused on a connection that stays."""

SPELLED: dict[str, Case] = {
    "names in lower case": Case(
        posted("/generate", BODY, ID + "lower").lower().replace(b"post", b"POST").replace(b"http/", b"HTTP/")
    ),
    "names in upper case": Case(
        head(
            "POST /generate HTTP/1.1",
            "HOST: localhost",
            "CONTENT-TYPE: APPLICATION/JSON",
            "CONTENT-LENGTH: 16",
            "X-REQUEST-ID: upper",
        )
        + b'{"inputs":"one"}'
    ),
    "no space behind colons": Case(
        head(
            "POST /generate HTTP/1.1", "Host:localhost", "Content-Type:application/json", "Content-Length:16"
        )
        + b'{"inputs":"one"}'
    ),
    "spaces around values": Case(
        head(
            "POST /generate HTTP/1.1",
            "Host:   localhost",
            "Content-Type: \t application/json ; charset=utf-8 ",
            "Content-Length:  16 ",
        )
        + b'{"inputs":"one"}'
    ),
    "content type of a vendor": Case(posted("/generate", BODY, "Content-Type: application/vnd.x+json")),
    "length with zeros in front": Case(posted("/generate", b'{"inputs":"one"}', "Content-Length: 0016")),
    "bytes above ASCII in a header": Case(posted("/generate", BODY, "X-Name: caf\xe9")),
    "empty header": Case(posted("/generate", BODY, "X-Empty:")),
    "many headers": Case(posted("/generate", BODY, *(f"X-Number-{n}: {n}" for n in range(200)))),
    "long headers": Case(posted("/generate", BODY, *(f"X-Long-{n}: {'x' * 5000}" for n in range(10)))),
    "id given twice": Case(posted("/generate", BODY, ID + "first", ID + "second")),
    "id that is none": Case(posted("/generate", BODY, ID + "a b")),
    "empty line in front": Case(b"\r\n" + posted("/generate", BODY)),
    "trace": Case(posted("/generate", BODY, f"traceparent: 00-{'a' * 32}-{'b' * 16}-01", "tracestate: x=1")),
    "query on a hot path": Case(posted("/generate?model=x&a=b%20c", BODY)),
    "empty query": Case(posted("/v1/generate?", BODY)),
    "encoded path": Case(posted("/%67enerate", BODY, ID + "encoded")),
    "encoded slash": Case(posted("/v1%2fgenerate", BODY, ID + "slash")),
    "encoded junk": Case(posted("/generate%00", BODY), (404,)),
    "encoded bytes that are no UTF-8": Case(posted("/generate%ff", BODY), (404,)),
    "two slashes": Case(posted("//generate", BODY), (404,)),
    "dots": Case(posted("/v1/../generate", BODY), (404,)),
    "absolute form": Case(posted("http://localhost/generate", BODY, ID + "absolute")),
    "absolute form with a port and a query": Case(posted("http://127.0.0.1:8000/v1/generate?x=1", BODY)),
    "absolute form of another host": Case(posted("http://evil.example/generate", BODY)),
    "stars": Case(got("*", method="OPTIONS"), (404,)),
    "HEAD on a hot path": Case(got("/generate", method="HEAD"), (405,), headless=(True,)),
    "HEAD on an ordinary path": Case(got("/health", method="HEAD"), headless=(True,)),
    "HEAD, then a hot request": Case(
        got("/health", method="HEAD") + posted("/generate", BODY), (200, 200), headless=(True, False)
    ),
}

FRAMED: dict[str, Case] = {
    "chunks": Case(chunked("/generate", BODY, ID + "chunks")),
    "chunks of one byte": Case(chunked("/v1/generate", BODY, size=1)),
    "one chunk": Case(chunked("/generate_stream", BODY, size=10_000)),
    "chunk extensions": Case(chunked("/generate", BODY, extension=b';name="a value";x')),
    "trailers": Case(chunked("/generate", BODY, trailers=b"X-Trailer: 1\r\nX-Other: 2\r\n")),
    "extensions and trailers, then a request": Case(
        chunked("/v1/generate", STREAM, ID + "one", extension=b";a=b", trailers=b"x: y\r\n")
        + posted("/generate", BODY, ID + "two"),
        (200, 200),
    ),
    "two chunked ones": Case(
        chunked("/generate", BODY, ID + "one") + chunked("/v1/generate", BODY, ID + "two"), (200, 200)
    ),
    "chunk without a size": Case(
        chunked("/generate", BODY).replace(b"\r\n\r\n7", b"\r\n\r\nz", 1), (400,), closes=True
    ),
    "chunk that is too long": Case(
        head("POST /generate HTTP/1.1", "Transfer-Encoding: chunked") + b"2\r\n{}x\r\n0\r\n\r\n",
        (400,),
        closes=True,
    ),
    "length and chunks": Case(chunked("/generate", BODY, "Content-Length: 5"), (400,), closes=True),
    "two lengths": Case(
        posted("/generate", b'{"inputs":"one"}', "Content-Length: 16", "Content-Length: 16"),
        (400,),
        closes=True,
    ),
    "length that is no number": Case(posted("/generate", b"{}", "Content-Length: two"), (400,), closes=True),
    "negative length": Case(posted("/generate", b"{}", "Content-Length: -2"), (400,), closes=True),
    "length with a sign": Case(posted("/generate", b"{}", "Content-Length: +2"), (400,), closes=True),
    "length beyond all measure": Case(
        posted("/generate", b"{}", f"Content-Length: {10**30}"), (400,), closes=True
    ),
    "space in front of a colon": Case(posted("/generate", BODY, "X-Odd : 1"), (400,), closes=True),
    "line end alone": Case(b"POST /generate HTTP/1.1\nHost: localhost\n\n", (400,), closes=True),
    "zero byte in a header": Case(posted("/generate", BODY, "X-Odd: a\0b"), (400,), closes=True),
    "not HTTP": Case(b"\x16\x03\x01\x02\x00\x01\x00", (400,), closes=True),
    "HTTP/2 without asking": Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,), closes=True),
    "unknown method": Case(got("/generate", method="BREW"), (400,), closes=True),
    "too large, and says so": Case(posted("/generate", {"inputs": "x" * 150_000}), (413,)),
    "too large in chunks": Case(chunked("/generate", {"inputs": "x" * 150_000}, size=9_000), (413,)),
    "large, but not too large": Case(posted("/v1/render", {"inputs": "x" * 90_000})),
}

KEPT: dict[str, Case] = {
    "close": Case(posted("/generate", BODY, "Connection: close", ID + "close"), closes=True),
    "close, capital": Case(posted("/v1/generate", BODY, "Connection: Close"), closes=True),
    "close in a list": Case(posted("/generate", BODY, "Connection: keep-alive, close"), closes=True),
    "stream and close": Case(posted("/generate_stream", BODY, "Connection: close"), closes=True),
    "refused and close": Case(posted("/generate", b"{", "Connection: close"), (400,), closes=True),
    "keep-alive": Case(posted("/generate", BODY, "Connection: keep-alive")),
    "HTTP/1.0": Case(posted("/generate", BODY, version="HTTP/1.0"), closes=True),
    "HTTP/1.0 and keep-alive": Case(
        posted("/v1/generate", BODY, "Connection: keep-alive", version="HTTP/1.0"), closes=True
    ),
    "HTTP/1.0 without a host": Case(b"GET /health HTTP/1.0\r\n\r\n", closes=True),
    "no host": Case(
        b"POST /generate HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n"
        b'{"inputs":"one"}',
        (403,),
    ),
    "upgrade that is not asked for": Case(posted("/generate", BODY, "Upgrade: websocket")),
    "expects 100, body sent along": Case(posted("/generate", BODY, "Expect: 100-continue"), (100, 200)),
    "expects 100, capital": Case(posted("/v1/generate", BODY, "EXPECT: 100-Continue"), (100, 200)),
    "expects 100, refused for its type": Case(
        posted("/generate", b"{}", "Expect: 100-continue", "Content-Type: text/plain"), (100, 415)
    ),
    "expects 100, too large": Case(
        posted("/generate", {"inputs": "x" * 150_000}, "Expect: 100-continue"), (413,)
    ),
    "expects 100, no route": Case(posted("/nowhere", BODY, "Expect: 100-continue"), (404,)),
}

PIPELINED: dict[str, Case] = {
    "two hot": Case(ROUTES["tgi"] + ROUTES["native"], (200, 200)),
    "hot, ordinary, hot": Case(ROUTES["tgi"] + ROUTES["health"] + ROUTES["native"], (200,) * 3),
    "stream, plain, stream": Case(ROUTES["tgi stream"] + ROUTES["tgi"] + ROUTES["native stream"], (200,) * 3),
    "all routes": Case(b"".join(ROUTES.values()), (200,) * len(ROUTES)),
    "all routes backwards": Case(b"".join(reversed(ROUTES.values())), (200,) * len(ROUTES)),
    "forty hot ones": Case(
        b"".join(posted("/generate", {"inputs": f"word{n}"}, f"{ID}n{n}") for n in range(40)), (200,) * 40
    ),
    "wrong, then right": Case(_json({}) + ROUTES["tgi"] + _json([]) + ROUTES["native"], (422, 200, 422, 200)),
    "missing, then right": Case(posted("/nowhere", BODY) + ROUTES["tgi"], (404, 200)),
    "chunks between": Case(
        ROUTES["tgi"] + chunked("/generate", BODY, ID + "c") + ROUTES["native"], (200,) * 3
    ),
    "close in the middle": Case(
        ROUTES["tgi"] + posted("/generate", BODY, "Connection: close", ID + "last") + ROUTES["native"],
        (200, 200),
        closes=True,
    ),
    "HTTP/1.0 in the middle": Case(
        ROUTES["tgi"] + posted("/generate", BODY, version="HTTP/1.0") + ROUTES["native"],
        (200, 200),
        closes=True,
    ),
    "too large, then right": Case(posted("/generate", {"inputs": "x" * 150_000}) + ROUTES["tgi"], (413, 200)),
    "body longer than its length": Case(posted("/generate", BODY) + b"}}", (400,), closes=True),
    "junk behind a request": Case(ROUTES["tgi"] + b"\0\0\0", (400,), closes=True),
    "empty lines between": Case(ROUTES["tgi"] + b"\r\n\r\n" + ROUTES["native"], (200, 200)),
}

CASES: dict[str, Case] = {
    **{name: Case(sent) for name, sent in ROUTES.items()},
    **{name: Case(sent, (status,)) for name, (sent, status) in REFUSED.items()},
    **SPELLED,
    **FRAMED,
    **KEPT,
    **PIPELINED,
}
