"""The conversation on a terminal: prompt, answer, prompt, until the person leaves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gateway.chat.client import GatewayClient
from gateway.chat.commands import Catalogue, Commands
from gateway.chat.completion import CommandCompleter
from gateway.chat.console import Console
from gateway.chat.events import ChatFailure, Lost
from gateway.chat.prompt import build_prompt, history_path, open_history
from gateway.chat.reply import Reply
from gateway.chat.session import Session
from gateway.chat.texts import Texts
from gateway.chat.tty import Interrupts, quiet_keys
from gateway.chat.wording import SEPARATOR, failure_lines, receipt_line

QUIT = ("/quit", "/exit")
RETRY = "/retry"


class Chat:
    """One conversation at one terminal."""

    def __init__(self, client: GatewayClient, session: Session, texts: Texts) -> None:
        self._client = client
        self._session = session
        self._texts = texts
        self._console = Console(sys.stdout, os.environ)
        self._catalogue = Catalogue(client)
        self._commands = Commands(self._catalogue, self._console, texts)
        self._interrupts = Interrupts()

    async def run(self) -> int:
        """Return the exit code once the person leaves."""
        path = history_path(os.environ, Path.home())
        history = open_history(path, lambda reason: self._history_lost(path, reason))
        completer = CommandCompleter(self._catalogue, self._texts)
        prompt = build_prompt(history, completer, self._toolbar, moves=self._console.moves)
        with self._interrupts.installed(), quiet_keys():
            await self._interrupts.guard(self._welcome())
            while True:
                try:
                    line = (await prompt.prompt_async()).strip()
                except KeyboardInterrupt:
                    if not prompt.default_buffer.text:
                        self._console.dim(self._texts.interrupt_hint)
                    continue
                except EOFError:
                    break
                if line in QUIT:
                    break
                await self._handle(line)
        self._console.dim(self._texts.bye)
        return 0

    async def _handle(self, line: str) -> None:
        if not line:
            return
        if line.startswith("//"):
            await self._ask(line[1:])
        elif line == RETRY:
            await self._retry()
        elif line.startswith("/"):
            await self._interrupts.guard(self._command(line))
        else:
            await self._ask(line)

    async def _welcome(self) -> None:
        try:
            await self._catalogue.refresh_models()
        except ChatFailure as failure:
            self._explain(failure, begun=False)
        self._console.dim(self._texts.welcome.format(url=self._client.url, model=self._model()))

    async def _command(self, line: str) -> None:
        try:
            self._session = await self._commands.run(self._session, line)
        except ChatFailure as failure:
            self._explain(failure, begun=False)

    async def _retry(self) -> None:
        if self._session.last_prompt is None:
            self._console.complain(self._texts.retry_nothing)
            return
        self._session = self._session.rewound()
        await self._ask(self._session.last_prompt or "")

    async def _ask(self, prompt: str) -> None:
        reply = Reply(self._texts, self._model(), self._console, self._console)
        body = self._session.body(prompt)
        self._session = self._session.asked(prompt)
        try:
            answer = await self._interrupts.guard(reply.receive(self._client.generate(body)))
        except ChatFailure as failure:
            self._keep(prompt, reply, complete=False)
            self._explain(failure, begun=bool(reply.text))
        else:
            self._keep(prompt, reply, complete=answer is not None)
            self._console.dim(receipt_line(self._texts, answer) if answer else self._stopped(reply))
        self._console.say("")

    def _keep(self, prompt: str, reply: Reply, *, complete: bool) -> None:
        self._session = self._session.answered(prompt, reply.text, model=reply.model, complete=complete)

    def _stopped(self, reply: Reply) -> str:
        return f"{reply.model}{SEPARATOR}{self._texts.stopped}"

    def _explain(self, failure: ChatFailure, *, begun: bool) -> None:
        sentence, *advice = failure_lines(self._texts, failure, begun=begun)
        self._console.complain(sentence)
        if isinstance(failure, Lost):
            advice.append(self._texts.lost_hint)
        for line in advice:
            self._console.say(line)

    def _model(self) -> str:
        if self._session.model:
            return self._session.model
        default = self._catalogue.default()
        return default.id if default else self._texts.default_model

    def _toolbar(self) -> str:
        return self._texts.toolbar.format(
            model=self._model(), scenario=self._session.scenario, url=self._client.url
        )

    def _history_lost(self, path: Path, reason: str) -> None:
        self._console.complain(self._texts.history_unwritable.format(path=path, reason=reason))
