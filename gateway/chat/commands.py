"""Lines that begin with a slash. What a command changes is the session; what it says goes to the console."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.chat import params as parameters
from gateway.chat.client import GatewayClient
from gateway.chat.console import Console
from gateway.chat.events import Model, Scenario
from gateway.chat.session import GENERAL, Session, as_json, as_markdown
from gateway.chat.texts import Texts
from gateway.chat.wording import did_you_mean, model_lines, state_of

Handler = Callable[[Session, str], Awaitable[Session]]

RESET: Final = "reset"
FORCE: Final = "--force"


class Catalogue:
    """The gateway's models and scenarios as last seen, for completion and for the toolbar."""

    def __init__(self, client: GatewayClient) -> None:
        self._client = client
        self.models: tuple[Model, ...] = ()
        self.scenarios: tuple[Scenario, ...] = ()

    async def refresh_models(self) -> tuple[Model, ...]:
        """Ask anew. Raises ChatFailure, and then the last list stays."""
        self.models = await self._client.models()
        return self.models

    async def refresh_scenarios(self) -> tuple[Scenario, ...]:
        self.scenarios = await self._client.scenarios()
        return self.scenarios

    def find(self, name: str) -> Model | None:
        return next((model for model in self.models if name in (model.id, *model.aliases)), None)

    def default(self) -> Model | None:
        return next((model for model in self.models if model.default), None)


class Commands:
    """The commands that change or show the session. /retry and /quit belong to the chat's loop."""

    def __init__(self, catalogue: Catalogue, console: Console, texts: Texts) -> None:
        self._catalogue = catalogue
        self._console = console
        self._texts = texts
        self._handlers: Mapping[str, Handler] = {
            "/model": self._model,
            "/models": self._models,
            "/scenario": self._scenario,
            "/system": self._system,
            "/params": self._params,
            "/clear": self._clear,
            "/save": self._save,
            "/help": self._help,
        }

    async def run(self, session: Session, line: str) -> Session:
        """The session after the command. Raises ChatFailure where the gateway was needed."""
        name, _, argument = line.partition(" ")
        handler = self._handlers.get(name)
        if handler is None:
            self._unknown(name)
            return session
        return await handler(session, argument.strip())

    async def _model(self, session: Session, name: str) -> Session:
        if not name:
            return await self._models(session, "")
        models = await self._catalogue.refresh_models()
        model = self._catalogue.find(name)
        if model is None:
            known = [known for model in models for known in (model.id, *model.aliases)]
            self._refuse(self._texts.model_unknown.format(model=name), name, known)
            return session
        said = self._texts.model_set.format(model=model.id, state=state_of(self._texts, model))
        self._console.say(f"{said} {self._texts.model_cold}" if model.state == "stopped" else said)
        return replace(session, model=name)

    async def _models(self, session: Session, _: str) -> Session:
        models = await self._catalogue.refresh_models()
        for line in model_lines(self._texts, models, session.model):
            self._console.say(line)
        return session

    async def _scenario(self, session: Session, name: str) -> Session:
        scenarios = await self._catalogue.refresh_scenarios()
        if not name:
            self._list_scenarios(session, scenarios)
            return session
        known = [scenario.id for scenario in scenarios]
        if name not in known:
            self._refuse(self._texts.scenario_unknown.format(scenario=name), name, known)
            return session
        self._console.say(self._texts.scenario_set.format(scenario=name))
        self._console.say(self._texts.scenario_chat if name == GENERAL else self._texts.scenario_alone)
        return replace(session, scenario=name)

    def _list_scenarios(self, session: Session, scenarios: tuple[Scenario, ...]) -> None:
        for scenario in scenarios:
            mark = "*" if scenario.id == session.scenario else " "
            described = scenario.description.get(self._texts.code, "")
            self._console.say(f"{mark} {scenario.id}  {described}".rstrip())

    async def _system(self, session: Session, text: str) -> Session:
        if not text:
            current = session.system
            self._console.say(
                self._texts.system_current.format(text=current) if current else self._texts.system_none
            )
            return session
        if text == RESET:
            self._console.say(self._texts.system_reset)
            return replace(session, system=None)
        self._console.say(self._texts.system_set)
        if session.scenario != GENERAL:
            self._console.say(self._texts.scenario_alone)
        return replace(session, system=text)

    async def _params(self, session: Session, text: str) -> Session:
        if text == RESET:
            self._console.say(self._texts.params_reset)
            return replace(session, params={})
        try:
            session = replace(session, params=parameters.changed(session.params, parameters.split(text)))
        except parameters.MalformedParameter as error:
            self._console.complain(self._texts.params_malformed.format(word=error.word))
        except parameters.UnknownParameter as error:
            sentence = self._texts.params_unknown.format(name=error.name)
            self._refuse(sentence, error.name, parameters.NAMES)
        else:
            shown = parameters.shown(session.params)
            self._console.say(
                self._texts.params_current.format(params=shown) if shown else self._texts.params_none
            )
        return session

    async def _clear(self, session: Session, _: str) -> Session:
        self._console.say(self._texts.cleared)
        return session.cleared()

    async def _save(self, session: Session, argument: str) -> Session:
        name = argument.removeprefix(FORCE).strip()
        if not name:
            self._console.complain(self._texts.save_usage)
        elif not session.exchanges:
            self._console.complain(self._texts.save_nothing)
        else:
            self._write(session, name, force=argument.startswith(FORCE))
        return session

    def _write(self, session: Session, name: str, *, force: bool) -> None:
        path = Path(name).expanduser()
        text = as_json(session) if path.suffix == ".json" else as_markdown(session, self._texts)
        try:
            with path.open("w" if force else "x", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except FileExistsError:
            self._console.complain(self._texts.save_exists.format(path=path))
        except OSError as error:
            self._console.complain(self._texts.save_failed.format(path=path, reason=error.strerror))
        else:
            self._console.say(self._texts.saved.format(path=path))

    async def _help(self, session: Session, _: str) -> Session:
        self._console.say(self._texts.help_head)
        width = max(len(name) for name in self._texts.help_commands)
        for name, meaning in self._texts.help_commands.items():
            self._console.say(f"  {name:<{width}}  {meaning}")
        self._console.say(self._texts.help_tail)
        return session

    def _unknown(self, name: str) -> None:
        sentence = self._texts.unknown_command.format(command=name)
        self._refuse(sentence, name, self._texts.help_commands)
        self._console.say(self._texts.see_help)

    def _refuse(
        self, sentence: str, word: str, known: Mapping[str, str] | tuple[str, ...] | list[str]
    ) -> None:
        guess = did_you_mean(self._texts, word, known)
        self._console.complain(f"{sentence} {guess}" if guess else sentence)
