"""What the environment says, checked before anything starts."""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from gpu_sidecar.series import tag_value

T = TypeVar("T")

LEVELS: Final = ("debug", "info", "warning", "error")


class WrongSettings(Exception):
    """Everything that is wrong with the environment, one sentence a line."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Read once. Names of variables are in ``VARIABLES``."""

    interval_s: float = 2.0
    driver_timeout_s: float = 10.0
    host: str = ""
    statsd_host: str = "127.0.0.1"
    statsd_port: int = 8125
    prometheus_host: str = "127.0.0.1"
    prometheus_port: int | None = None
    processes: int = 8
    window_s: float = 60.0
    log_level: str = "info"
    gateway_metrics_url: str | None = None
    gateway_key: str | None = None
    price_per_kwh: float | None = None
    currency: str = "EUR"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable and what it becomes. ``parse`` raises ValueError, which says what is expected."""

    name: str
    field: str
    parse: Callable[[str], Any]
    help: str

    @property
    def default(self) -> Any:
        return next(field.default for field in fields(Settings) if field.name == self.field)


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        expected = f"a number from {least:g} to {most:g} is expected"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(expected) from None
        if not (math.isfinite(value) and least <= value <= most):
            raise ValueError(expected)
        return value

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise ValueError(f"a whole number from {least} to {most} is expected")
        return int(text)

    return parse


def _level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError(f"one of {', '.join(LEVELS)} is expected")
    return text.lower()


def _url(text: str) -> str:
    expected = "an address such as http://gateway:8000/metrics is expected"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(expected) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(expected)
    if parts.username or parts.password:
        raise ValueError(
            "put the key into a file and name it in GATEWAY_METRICS_KEY_FILE, not into the address"
        )
    return text


def _key(text: str) -> str:
    """The first line of the file that holds a key and is no comment."""
    try:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the file cannot be read ({getattr(error, 'strerror', None) or error})") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ValueError("the file holds no key")
    if not keys[0].isascii() or not keys[0].isprintable():
        raise ValueError("the key in the file has characters that a header cannot carry")
    return keys[0]


def _currency(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]{3}", text):
        raise ValueError("three letters such as EUR are expected")
    return text.upper()


VARIABLES: Final = (
    Variable("SIDECAR_INTERVAL_S", "interval_s", _number(0.05, 3600), "seconds from one reading to the next"),
    Variable(
        "SIDECAR_DRIVER_TIMEOUT_S",
        "driver_timeout_s",
        _number(0.1, 600),
        "a driver that takes longer counts as gone",
    ),
    Variable("SIDECAR_HOST", "host", tag_value, "value of the tag `host`; otherwise the machine's name"),
    Variable("SIDECAR_STATSD_HOST", "statsd_host", str, "where Telegraf listens for StatsD"),
    Variable("SIDECAR_STATSD_PORT", "statsd_port", _whole(1, 65535), "the port there, UDP"),
    Variable("SIDECAR_PROMETHEUS_HOST", "prometheus_host", str, "address of the page for Prometheus"),
    Variable("SIDECAR_PROMETHEUS_PORT", "prometheus_port", _whole(1, 65535), "its port; unset: no page"),
    Variable(
        "SIDECAR_PROCESSES", "processes", _whole(0, 100), "names of processes per card; the rest is `other`"
    ),
    Variable("SIDECAR_WINDOW_S", "window_s", _number(1, 3600), "seconds that energy per token looks back"),
    Variable("SIDECAR_LOG_LEVEL", "log_level", _level, "debug, info, warning or error"),
    Variable(
        "GATEWAY_METRICS_URL", "gateway_metrics_url", _url, "the gateway's page; unset: no figures per token"
    ),
    Variable("GATEWAY_METRICS_KEY_FILE", "gateway_key", _key, "file with the key that the gateway asks for"),
    Variable(
        "PRICE_PER_KWH", "price_per_kwh", _number(0, 1e6), "price of energy; unset: no figures in money"
    ),
    Variable("PRICE_CURRENCY", "currency", _currency, "currency of the price"),
)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings; an empty variable counts as not set. Raises WrongSettings with all that is wrong."""
    values: dict[str, Any] = {"host": tag_value(socket.gethostname())}
    wrong = []
    for variable in VARIABLES:
        text = environment.get(variable.name, "").strip()
        if not text:
            continue
        try:
            values[variable.field] = variable.parse(text)
        except ValueError as error:
            wrong.append(f"{variable.name}={text!r}: {error}.")
    if wrong:
        raise WrongSettings("\n".join(wrong))
    return Settings(**values)
