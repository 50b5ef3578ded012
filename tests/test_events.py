"""Transitions for whoever listens."""

from __future__ import annotations

from contextlib import aclosing

from gateway.events import MAX_UNREAD, EventHub

HOUR_S = 3600.0


async def test_every_listener_hears_every_event() -> None:
    hub = EventHub()
    async with aclosing(hub.listen(0.001)) as first, aclosing(hub.listen(0.001)) as second:
        assert await anext(first) is None  # nothing yet: a heartbeat
        assert await anext(second) is None
        hub.publish({"state": "ready"})

        assert await anext(first) == {"state": "ready"}
        assert await anext(second) == {"state": "ready"}


async def test_listener_that_does_not_read_loses_the_oldest_and_is_told() -> None:
    hub = EventHub()
    async with aclosing(hub.listen(0.001)) as listener:
        await anext(listener)
        for number in range(MAX_UNREAD + 3):
            hub.publish({"number": number})

        assert await anext(listener) == {"lost": 3}
        assert await anext(listener) == {"number": 3}


async def test_closing_ends_every_listening() -> None:
    hub = EventHub()
    async with aclosing(hub.listen(HOUR_S)) as listener:
        hub.publish({"before": "nobody listened yet"})
        hub.close()

        assert [event async for event in listener] == []
