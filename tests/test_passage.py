"""The last resort of a request on the fast path: faults of our own, at a moment when nobody is above."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import EngineError
from gateway.fastpath.passage import Passage


class Client:
    """A connection that notes whether it was ended."""

    def __init__(self) -> None:
        self.aborted = 0
        self.transport = SimpleNamespace(abort=self._abort)

    def _abort(self) -> None:
        self.aborted += 1


def test_an_end_that_cannot_be_written_closes_the_connection_instead_of_hanging(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody is above the engine's connection when it calls: the client would wait for ever."""

    def error(_: object) -> bytes:
        raise ValueError("no such words")

    passage: Any = Passage.__new__(Passage)
    client = passage._client = Client()
    passage._given, passage._wish = True, SimpleNamespace(error=error)
    passage._path = SimpleNamespace(metrics=SimpleNamespace(count=lambda *_, **__: None))
    passage._prepared = SimpleNamespace(spec=SimpleNamespace(id="m"))
    passage._head = SimpleNamespace(request_id="the-one")

    passage.failed(EngineError("it broke"))

    assert client.aborted == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert vars(record)["request_id"] == "the-one"
