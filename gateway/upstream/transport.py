"""The one HTTP client towards engines."""

from __future__ import annotations

import ssl

import httpx

# Below the 5 s after which common servers drop an idle connection, so that none is picked up as it dies.
_IDLE_CONNECTION_S = 4.0


def open_client(
    *,
    max_connections: int | None = None,
    tls: ssl.SSLContext | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """A client for every engine, to be closed by whoever opened it.

    Connections are not limited unless asked: admission bounds the requests. Proxies and .netrc of the
    environment are not used (an engine is a neighbour), redirects are not followed, answers are asked
    for uncompressed so that a stream is never held back by a compressor. Engines behind https are checked
    against ``tls``, or the public authorities.
    """
    limits = httpx.Limits(
        max_connections=max_connections,
        max_keepalive_connections=max_connections,
        keepalive_expiry=_IDLE_CONNECTION_S,
    )
    return httpx.AsyncClient(
        transport=transport or httpx.AsyncHTTPTransport(verify=tls or True, limits=limits, trust_env=False),
        trust_env=False,
        follow_redirects=False,
        headers={"accept-encoding": "identity", "user-agent": "unified-llm-gateway"},
    )
