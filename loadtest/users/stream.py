"""Readers: the answer comes token by token."""

from __future__ import annotations

from locust import task

from loadtest.users.base import Asked, GatewayUser


class StreamUser(GatewayUser):
    """Asks for streams. First token, time between tokens and tokens/s are rows of Locust's own table."""

    weight = 20
    kind = "stream"

    @task
    def read_along(self) -> None:
        target = self.prompts.target()
        self.ask(Asked(target, self.prompts.ask(target), stream=True))
