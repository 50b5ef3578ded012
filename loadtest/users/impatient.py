"""People who leave: in the middle of an answer, or before there is one."""

from __future__ import annotations

from locust import task

from loadtest.users.base import Asked, GatewayUser

STAYS_TO_THE_END = 0.2


class ImpatientUser(GatewayUser):
    """Leaves a stream after 1 to 60 tokens, or before the first once its patience of 1 to 15 s is over."""

    weight = 4
    kind = "impatient"

    @task
    def leave_early(self) -> None:
        target = self.prompts.target()
        ask = self.prompts.ask(target)
        reads = None if self.prompts.chance(STAYS_TO_THE_END) else round(self.prompts.between(1, 60))
        patience_s = self.prompts.between(1.0, 15.0)
        self.ask(Asked(target, ask, stream=True, patience_s=patience_s, reads=reads))
