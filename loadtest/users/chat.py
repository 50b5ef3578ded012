"""Chats that grow: every turn sends all that was said before."""

from __future__ import annotations

from locust import task

from loadtest.users.base import Asked, GatewayUser

MOST_TURNS = 8


class ChatUser(GatewayUser):
    """Keeps to one model for a chat of 2 to 8 turns, as a stream, then begins another."""

    weight = 8
    kind = "chat"

    def on_start(self) -> None:
        super().on_start()
        self._begin()

    def _begin(self) -> None:
        self._target = self.prompts.target()
        self._opening = self.prompts.ask(self._target, "general")
        self._messages: list[dict[str, str]] = []
        self._turns = round(self.prompts.between(2, MOST_TURNS))

    @task
    def next_turn(self) -> None:
        said = self._opening if not self._messages else self.prompts.follow_up(self._opening.language)
        messages = [*self._messages, {"role": "user", "content": said.text}]
        record, text = self.ask(Asked(self._target, said, stream=True, messages=messages))
        if record.outcome == "ok":
            self._messages = [*messages, {"role": "assistant", "content": text}]
        if record.outcome == "failed" or len(self._messages) >= 2 * self._turns:
            self._begin()
