"""The records of the registry (``models.yaml``). Settings of the process are in ``settings.py``.

Reading and checking the file is in ``registry.py``; this module says what may stand in it.
Every field has a description: it is the reference page (a test holds the two together).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field

from gateway.parameters import Parameters

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")]
Repository = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,96}/[A-Za-z0-9._-]{1,96}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]


class Record(BaseModel):
    """Base of all registry records: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Record):
    """What one model takes, and how many at once."""

    max_concurrent: int = Field(
        64, gt=0, description="requests inside the engine at once, each replica; more wait here"
    )
    max_queue: int = Field(256, ge=0, description="requests that may wait; more are refused with 429")
    max_input_tokens: int | None = Field(None, gt=0, description="shown to clients; the engine enforces it")
    max_total_tokens: int | None = Field(None, gt=0, description="input plus output, shown to clients")


class Timeouts(Record):
    """The clocks of one model, in seconds. Each ends in an error of its own."""

    connect_s: Seconds = Field(5.0, description="to open a connection to the engine")
    first_token_s: Seconds = Field(120.0, description="from sending the prompt to the first token")
    between_tokens_s: Seconds = Field(
        30.0, description="from one token to the next; keep-alives do not count"
    )
    total_s: Seconds = Field(600.0, description="the whole generation")
    wait_s: Seconds = Field(300.0, description="a request waits this long for its turn, then gets 503")
    start_s: Seconds = Field(600.0, description="a start without progress for this long has failed")
    stop_grace_s: Seconds = Field(100.0, description="from the stop signal to the kill; TGI drains up to 90")


class Probes(Record):
    """How the gateway finds out that an engine lives."""

    interval_s: Seconds = Field(10.0, description="pause between probes of a ready engine")
    timeout_s: Seconds = Field(20.0, description="TGI answers /health only between two forward passes")
    fails: int = Field(3, gt=0, description="failures in a row that make an engine down")
    passes: int = Field(1, gt=0, description="answers in a row that make it ready")


class Weights(Record):
    """Where `python -m gateway models pull` gets a model's weights."""

    hub: Repository | None = Field(None, description="OWNER/NAME on the Hugging Face hub")
    revision: str | None = Field(None, description="branch, tag or commit there; the main branch if not set")
    modelscope: Repository | None = Field(None, description="OWNER/NAME on ModelScope")


class Routing(Record):
    """Which of several replicas gets a request, and when another one is tried."""

    resolve_s: float = Field(
        5.0, ge=0, description="pause between look-ups of host names; 0: names are not spread"
    )
    eject_after: int = Field(3, gt=0, description="failed requests in a row after which a replica gets none")
    eject_s: Seconds = Field(5.0, description="for this long; doubles each time, then one request is a trial")
    eject_max_s: Seconds = Field(60.0, description="longest time without requests")
    max_retries: int = Field(2, ge=0, description="other replicas that one request may be sent to")
    retry_share: float = Field(0.2, ge=0, le=1, description="retries per request, over all requests")
    retry_floor_per_s: float = Field(2.0, ge=0, description="retries per second that are allowed anyway")


class Capabilities(Record):
    """What a model's engine can do. Asking for what it cannot is refused before anything waits."""

    grammar: bool | None = Field(None, description="answers that follow a JSON schema or an expression")
    tools: bool | None = Field(None, description="tool calls, through the engine's own chat route")
    tokenise: bool | None = Field(None, description="saying how a text is split into tokens")
    logprobs: bool | None = Field(None, description="log probabilities of tokens")
    seed: bool | None = Field(None, description="repeating a drawn answer")


class ModelSpec(Record):
    """One model: who it is, where its engine is, what it needs."""

    id: Identifier = Field(description="the name clients ask for")
    family: str = Field(description="prompt template: qwen2, llama3, chatml or smollm2")
    engine: str = Field("tgi", description="what the engine speaks: tgi or openai")
    url: HttpUrl | None = Field(
        None, description="address of an engine; alone: somebody else starts and stops it"
    )
    replicas: tuple[HttpUrl, ...] = Field(
        (), description="more addresses of the same model, beside a `url` that stands alone"
    )
    supervisor: HttpUrl | None = Field(None, description="address of the supervisor beside that engine")
    command: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="instead of url: the gateway runs this itself; {port} and {python} are filled in",
    )
    name: str | None = Field(None, description="full name for people, such as Qwen2-7B-Instruct-GPTQ-Int4")
    languages: tuple[str, ...] = Field((), description="languages it speaks; empty: not said")
    aliases: tuple[Alias, ...] = Field((), description="other names for it")
    device: Identifier | None = Field(
        None, description="device whose memory it takes; needed when there are several"
    )
    memory: ByteSize | None = Field(
        None, gt=0, description="memory it takes, such as 10GiB, until a start has shown it"
    )
    weights: Weights | None = Field(None, description="see weights")
    limits: Limits = Field(default_factory=Limits, description="see limits")
    capabilities: Capabilities = Field(
        default_factory=Capabilities, description="see capabilities; none: what the engine says of itself"
    )
    timeouts: Timeouts = Field(default_factory=Timeouts, description="see timeouts")
    probes: Probes = Field(default_factory=Probes, description="see probes")
    routing: Routing = Field(
        default_factory=Routing, description="see routing; for a `url` that stands alone"
    )
    parameters: Parameters = Field(
        Parameters(),
        description="default generation parameters: they beat a scenario's and yield to a request's",
    )
    preload: bool = Field(False, description="start it with the gateway")
    pinned: bool = Field(False, description="never give its place to another model")
    priority: int = Field(0, description="higher is served first among those who wait")
    idle_timeout_s: Seconds | None = Field(None, description="stop it after this long without a request")

    @cached_property
    def own_parameters(self) -> dict[str, Any]:
        """Those of ``parameters`` that are set. Not to be changed."""
        return self.parameters.model_dump(exclude_none=True)

    @property
    def managed(self) -> bool:
        """Whether we start and stop the engine."""
        return self.command is not None or self.supervisor is not None

    @property
    def title(self) -> str:
        return self.name or self.id


class DeviceSpec(Record):
    """Memory that models share: a graphics card, or main memory."""

    id: Identifier = Field(description="name used by models")
    memory: ByteSize | None = Field(
        None,
        gt=0,
        description="how much models may take together, such as 12GiB; for nvml: the whole card if not set",
    )
    reader: Literal["nvml", "process", "none"] = Field(
        "none",
        description="who measures: nvml (the card), process (main memory of the engines), none (trust)",
    )
    index: int = Field(0, ge=0, description="which card, for reader nvml")
    release_timeout_s: Seconds = Field(
        30.0, description="a stopped model's memory must be free after this long"
    )


class Switching(Record):
    """When one model hands the device over to another."""

    max_wait_s: Seconds = Field(30.0, description="who waits this long for another model gets the next turn")
    min_residency_s: float = Field(
        10.0, ge=0, allow_inf_nan=False, description="a model that came in keeps its place at least this long"
    )
    hold_idle_gaps: float = Field(
        3.0,
        ge=0,
        allow_inf_nan=False,
        description="an idle model is held for this many of its usual gaps between requests",
    )
    return_to_default_after_s: Seconds | None = Field(
        None, description="bring the default model back after this long without requests"
    )
    keep_abandoned_loads: bool = Field(
        False, description="finish a load even when nobody waits for it any more"
    )
    backoff_initial_s: Seconds = Field(
        2.0, description="pause after a failed start; doubles with each failure"
    )
    backoff_max_s: Seconds = Field(60.0, description="longest pause between failed starts")


class LocalizedText(Record):
    """A text in both languages; one alone serves for both."""

    en: str | None = Field(None, description="English")
    zh: str | None = Field(None, description="Chinese")


class ScenarioSpec(Record):
    """A scenario of the user's own."""

    description: str | LocalizedText = Field("", description="what it is for")
    system: str | LocalizedText | None = Field(None, description="system prompt")
    user: str | LocalizedText = Field(
        "{inputs}", description="wraps the request's inputs; must contain {inputs}"
    )
    parameters: Parameters = Field(Parameters(), description="default generation parameters")


class AliasSpec(Record):
    """Another name: for one model, or for several that share its requests. A plain text means ``to``."""

    to: str | None = Field(None, description="the model it means; or split")
    split: dict[Identifier, Weight] | None = Field(
        None, min_length=1, description="models that share its requests: model id to weight"
    )
    sticky: Literal["session", "user", "none"] = Field(
        "session",
        description="whose requests stay with one model of a split: a session's, a user's or none",
    )
    fallback: tuple[Identifier, ...] = Field(
        (), description="models that answer instead, in this order, when the one asked cannot"
    )
    block_requests: int = Field(
        10, gt=0, description="models of a split that do not fit together: how far from its share one may be"
    )
    block_s: float | None = Field(
        None, ge=0, description="the same: turns are at least this long; not set: three times the last load"
    )

    @property
    def models(self) -> tuple[str, ...]:
        """The ids of all that it may mean, the likeliest first."""
        weights = self.split or {str(self.to): 1.0}
        return tuple(sorted(weights, key=lambda model: -weights[model]))


def _plain_alias(value: object) -> object:
    return {"to": value} if isinstance(value, str) else value


class Registry(Record):
    """The whole file."""

    models: tuple[ModelSpec, ...] = Field(min_length=1, description="the models")
    devices: tuple[DeviceSpec, ...] = Field((), description="memory that models share; none: everything fits")
    default_model: str | None = Field(
        None, description="who answers when a request names none; first if not set"
    )
    aliases: dict[Alias, Annotated[AliasSpec, BeforeValidator(_plain_alias)]] = Field(
        default_factory=dict, description="other names: alias to model id, or to a record; see aliases"
    )
    scenarios: dict[Identifier, ScenarioSpec] = Field(
        default_factory=dict, description="scenarios of your own"
    )
    switching: Switching = Field(default_factory=Switching, description="see switching")

    def default(self) -> str:
        """The id of the model that answers when a request names none; of a split, the likeliest."""
        return self.resolve(self.default_model) or self.models[0].id

    def splits(self) -> dict[str, AliasSpec]:
        """The aliases that mean several models."""
        return {name: alias for name, alias in self.aliases.items() if alias.split is not None}

    def embedded_weights(self) -> list[str]:
        """What stands behind ``--model`` in the commands that start our own engine."""
        commands = [
            model.command for model in self.models if model.command and "gateway.engine" in model.command
        ]
        pairs = [pair for command in commands for pair in itertools.pairwise(command)]
        return [value for option, value in pairs if option == "--model"]

    def names(self) -> Mapping[str, str]:
        """Every name a client may use, to the id it means: of a split, the likeliest."""
        return self._names

    @cached_property
    def _names(self) -> Mapping[str, str]:
        """Made once: every request asks for it, and nothing that it is made of ever changes."""
        table = {name: alias.models[0] for name, alias in self.aliases.items()}
        for model in self.models:
            table[model.id] = model.id
            table.update(dict.fromkeys(model.aliases, model.id))
        return table

    def resolve(self, name: str | None) -> str | None:
        """The id behind a name or alias; None when there is none."""
        return self.names().get(name) if name else None
