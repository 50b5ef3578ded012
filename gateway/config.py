"""Settings from the environment, and the records of the registry (``models.yaml``).

Reading and checking the file is in ``registry.py``; this module says what may stand in it.
Every field has a description: it is the reference page (a test holds the two together).
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.parameters import Parameters

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Alias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")]
Seconds = Annotated[float, Field(gt=0)]


class Record(BaseModel):
    """Base of all registry records: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Limits(Record):
    """What one model takes, and how many at once."""

    max_concurrent: int = Field(64, gt=0, description="requests inside the engine at once; more wait here")
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


class ModelSpec(Record):
    """One model: who it is, where its engine is, what it needs."""

    id: Identifier = Field(description="the name clients ask for")
    family: str = Field(description="prompt template: qwen2, llama3, chatml or smollm2")
    engine: str = Field("tgi", description="what the engine speaks: tgi or openai")
    url: HttpUrl | None = Field(
        None, description="address of an engine; alone: somebody else starts and stops it"
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
    limits: Limits = Field(default_factory=Limits, description="see limits")
    timeouts: Timeouts = Field(default_factory=Timeouts, description="see timeouts")
    probes: Probes = Field(default_factory=Probes, description="see probes")
    parameters: Parameters = Field(
        Parameters(),
        description="default generation parameters: they beat a scenario's and yield to a request's",
    )
    preload: bool = Field(False, description="start it with the gateway")
    pinned: bool = Field(False, description="never give its place to another model")
    priority: int = Field(0, description="higher is served first among those who wait")
    idle_timeout_s: Seconds | None = Field(None, description="stop it after this long without a request")

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
    memory: ByteSize = Field(gt=0, description="how much models may take together, such as 12GiB")
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
        10.0, ge=0, description="a model that came in keeps its place at least this long"
    )
    hold_idle_gaps: float = Field(
        3.0, ge=0, description="an idle model is held for this many of its usual gaps between requests"
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


class Registry(Record):
    """The whole file."""

    models: tuple[ModelSpec, ...] = Field(min_length=1, description="the models")
    devices: tuple[DeviceSpec, ...] = Field((), description="memory that models share; none: everything fits")
    default_model: str | None = Field(
        None, description="who answers when a request names none; first if not set"
    )
    aliases: dict[Alias, str] = Field(default_factory=dict, description="other names: alias to model id")
    scenarios: dict[Identifier, ScenarioSpec] = Field(
        default_factory=dict, description="scenarios of your own"
    )
    switching: Switching = Field(default_factory=Switching, description="see switching")

    def default(self) -> str:
        """The id of the model that answers when a request names none."""
        return self.resolve(self.default_model) or self.models[0].id

    def names(self) -> dict[str, str]:
        """Every name a client may use, to the id it means."""
        table: dict[str, str] = dict(self.aliases)
        for model in self.models:
            table[model.id] = model.id
            table.update(dict.fromkeys(model.aliases, model.id))
        return table

    def resolve(self, name: str | None) -> str | None:
        """The id behind a name or alias; None when there is none."""
        return self.names().get(name) if name else None


class SettingsError(Exception):
    """Settings that cannot be used. The text says which, why, and what to do."""


def read_secret(path: Path, variable: str) -> str:
    """The content of a file that a setting names. Raises SettingsError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}={path} cannot be read: {error}") from error


class Settings(BaseSettings):
    """Settings of the process, read once from the environment (prefix ``GATEWAY_``)."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    config: Path = Field(Path("models/models.yaml"), description="the registry file")
    api_key: SecretStr | None = Field(
        None, description="key that clients must send; none on loopback: not asked for"
    )
    api_key_file: Path | None = Field(
        None, description="file with one key per line, instead of GATEWAY_API_KEY"
    )
    allow_anonymous: bool = Field(
        False, description="listen beyond loopback without a key; only behind a lock of yours"
    )
    supervisor_token_file: Path | None = Field(
        None, description="file with the token that supervisors ask for"
    )
    max_body_bytes: int = Field(2_000_000, gt=0, description="larger request bodies are refused with 413")
    heartbeat_s: Seconds = Field(2.0, description="a waiting stream says something at least this often")
    drain_s: Seconds = Field(30.0, description="at shutdown, running answers may take this long to finish")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for machines")
    transport: Literal["fast", "httpx"] = Field(
        "fast", description="connections to engines: the gateway's own, or httpx's"
    )
    run_dir: Path = Field(Path(".run"), description="logs of engines that the gateway started")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
