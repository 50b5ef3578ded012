"""What Tab offers: commands, and behind them models with their state, scenarios, parameters and files."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from gateway.chat import params as parameters
from gateway.chat.commands import RESET, Catalogue
from gateway.chat.events import ChatFailure
from gateway.chat.texts import Texts
from gateway.chat.wording import state_of

FRESH_S: Final = 2.0


class CommandCompleter(Completer):
    """Completes lines that begin with a slash. States are at most FRESH_S seconds old."""

    def __init__(
        self, catalogue: Catalogue, texts: Texts, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._catalogue = catalogue
        self._texts = texts
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        line = document.text_before_cursor
        if not line.startswith("/") or "\n" in line:
            return
        command, space, argument = line.partition(" ")
        if not space:
            yield from _matching(self._texts.help_commands.items(), command)
        elif command == "/save":
            yield from self._paths.get_completions(Document(argument), complete_event)
        else:
            word = argument if command != "/params" else argument.rpartition(" ")[2]
            yield from _matching(self._arguments(command), word)

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        command, space, _ = document.text_before_cursor.partition(" ")
        refresh = {"/model": self._catalogue.refresh_models, "/scenario": self._catalogue.refresh_scenarios}
        if space and command in refresh:
            await self._freshen(command, refresh[command])
        for completion in self.get_completions(document, complete_event):
            yield completion

    async def _freshen(self, command: str, refresh: Callable[[], Awaitable[object]]) -> None:
        if self._clock() - self._asked_at.get(command, -FRESH_S) < FRESH_S:
            return
        self._asked_at[command] = self._clock()
        try:
            await refresh()
        except ChatFailure:
            # Completion is a courtesy: the command itself will say what is wrong.
            return

    def _arguments(self, command: str) -> Iterator[tuple[str, str]]:
        if command == "/model":
            for model in self._catalogue.models:
                for name in (model.id, *model.aliases):
                    state = state_of(self._texts, model)
                    yield name, state if name == model.id else f"{model.id}: {state}"
        elif command == "/scenario":
            for scenario in self._catalogue.scenarios:
                yield scenario.id, scenario.description.get(self._texts.code, "")
        elif command == "/params":
            yield from ((f"{name}=", "") for name in parameters.NAMES)
            yield RESET, ""
        elif command == "/system":
            yield RESET, ""


def _matching(candidates: Iterable[tuple[str, str]], typed: str) -> Iterator[Completion]:
    for name, meaning in candidates:
        if name.startswith(typed):
            yield Completion(name, start_position=-len(typed), display_meta=meaning)
