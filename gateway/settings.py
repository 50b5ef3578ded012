"""Settings of the process, from the environment.

Every field has a description: it is the reference page (a test holds the two together).
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.config import HttpUrl, Seconds

PREFIX = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$"
ORIGINS = r"^https?://[^\s,/]+(,https?://[^\s,/]+)*$"
TAGS = r"^[A-Za-z0-9_.-]+=[A-Za-z0-9_.-]+(,[A-Za-z0-9_.-]+=[A-Za-z0-9_.-]+)*$"


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
    keys_file: Path | None = Field(
        None,
        description="digests of keys that `keys new` makes and `keys revoke` takes away; "
        "not set: keys in GATEWAY_RUN_DIR, if there is that file",
    )
    allow_anonymous: bool = Field(
        False, description="listen beyond loopback without a key; only behind a lock of yours"
    )
    cors_origins: str | None = Field(
        None,
        pattern=ORIGINS,
        description="origins of web pages that may ask, with commas between; none: no web page may",
    )
    supervisor_token_file: Path | None = Field(
        None, description="file with the token that supervisors ask for"
    )
    max_body_bytes: int = Field(2_000_000, gt=0, description="larger request bodies are refused with 413")
    receive_timeout_s: Seconds = Field(
        60.0, description="a request's head, and then its body, must be there within this, or get 408"
    )
    send_timeout_s: Seconds = Field(
        60.0, description="a client that takes nothing of its answer for this long is cut off"
    )
    keep_alive_s: Seconds = Field(
        75.0, description="a connection without a request is kept this long: longer than proxies keep theirs"
    )
    heartbeat_s: Seconds = Field(2.0, description="a waiting stream says something at least this often")
    drain_s: Seconds = Field(30.0, description="at shutdown, running answers may take this long to finish")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for machines")
    transport: Literal["fast", "httpx"] = Field(
        "fast",
        description="connections to engines: the gateway's own, or httpx's, where a kept connection that the "
        "engine is just closing fails a request",
    )
    workers: int = Field(
        1, ge=1, le=64, description="processes that answer; more than one: for when one fills its core"
    )
    run_dir: Path = Field(Path(".run"), description="logs of engines that the gateway started")
    statsd_host: str | None = Field(None, description="where StatsD lines go, over UDP; none: nowhere")
    statsd_port: int = Field(8125, gt=0, le=65535, description="port of the StatsD listener")
    statsd_prefix: str = Field("gw", pattern=PREFIX, description="begins the names of StatsD's figures")
    statsd_interval_s: Seconds = Field(1.0, description="StatsD lines are sent this often")
    statsd_tags: str | None = Field(
        None, pattern=TAGS, description="tags on every StatsD line, such as host=gpu1,site=lab"
    )
    otlp_endpoint: HttpUrl | None = Field(
        None,
        description="OpenTelemetry collector (OTLP over HTTP) that gets traces; none: no traces",
    )

    @property
    def web_pages(self) -> tuple[str, ...]:
        """The origins of web pages that may ask."""
        return tuple(self.cors_origins.split(",")) if self.cors_origins else ()

    @property
    def kept_keys(self) -> Path:
        """Where the digests of keys are kept, or would be."""
        return self.keys_file or self.run_dir / "keys"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
