"""People who compare: the same question to one model after the other."""

from __future__ import annotations

from locust import task

from loadtest.users.base import Asked, GatewayUser


class AlternatingUser(GatewayUser):
    """Asks every model the same, in turn: where only one fits, each request may mean a switch."""

    weight = 4
    kind = "alternating"

    def on_start(self) -> None:
        super().on_start()
        self._ask = self.prompts.ask(self.desk.targets[0])
        self._next = 0

    @task
    def ask_the_next(self) -> None:
        targets = self.desk.targets
        target = targets[self._next % len(targets)]
        if self._next % len(targets) == 0:
            # In a language that all of them speak, or it would be no comparison.
            narrowest = min(targets, key=lambda one: len(one.languages) or 9)
            self._ask = self.prompts.ask(narrowest)
        self._next += 1
        self.ask(Asked(target, self._ask))
