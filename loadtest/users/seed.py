"""The run that the table of 100 users is about: a scenario and a model by weight, an answer in one piece."""

from __future__ import annotations

from locust import task

from loadtest.users.base import Asked, GatewayUser


class SeedUser(GatewayUser):
    """Asks for a whole answer, pauses, and asks again."""

    weight = 60
    kind = "plain"

    @task
    def generate(self) -> None:
        target = self.prompts.target()
        self.ask(Asked(target, self.prompts.ask(target)))
