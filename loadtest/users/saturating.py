"""A source of requests at a rate, for finding out how much the gateway and its engine can take."""

from __future__ import annotations

import time

import gevent
from locust import task

from loadtest.users.base import Asked, GatewayUser

MOST_ATTEMPTS = 3


class SaturatingUser(GatewayUser):
    """Begins a request every ``--pace-s`` seconds, however long answers take below that, so that the load
    grows with the number of users. Who is refused comes back when Retry-After says, up to twice."""

    kind = "saturating"

    def on_start(self) -> None:
        super().on_start()
        # All of them at once would come in waves. (So they would with Locust's own constant_pacing: it counts
        # from the moment at which a user was made.)
        gevent.sleep(self.prompts.between(0.0, self.desk.settings.pace_s))
        self._due = time.perf_counter()

    def wait_time(self) -> float:
        """Until the next one is due; what came too late moves the later ones."""
        self._due = max(self._due + self.desk.settings.pace_s, time.perf_counter())
        return self._due - time.perf_counter()

    def pause_s(self) -> float:
        return self.desk.settings.pace_s

    @task
    def generate(self) -> None:
        target = self.prompts.target()
        ask = self.prompts.ask(target)
        for attempt in range(1, MOST_ATTEMPTS + 1):
            record, _ = self.ask(Asked(target, ask, attempt=attempt))
            if record.outcome != "refused" or record.retry_after_s is None:
                return
            gevent.sleep(record.retry_after_s)
