"""What the gateway has counted, from its page for Prometheus."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from gpu_sidecar.outage import Outage
from gpu_sidecar.series import tag_value

TIMEOUT_S: Final = 2.0
_LARGEST_PAGE_BYTES: Final = 16 * 2**20
_SAMPLE: Final = re.compile(r"^(gateway_[a-z_]+)(?:\{(.*)\})? ([^ \n]+)", re.MULTILINE)
_MODEL: Final = re.compile(r'(?:^|,)model="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the gateway started, and how many requests are in it now."""

    tokens: float
    in_flight: float
    switches: Mapping[str, float]
    lost_s: Mapping[str, float]


class GatewayPage:
    """Reads the page. Says once why it cannot, and once when it can again."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = urlsplit(url)
        self._key = key
        self._outage = Outage(f"the gateway's page {url}")

    def read(self) -> Counts | None:
        """Blocks for ``TIMEOUT_S`` at most where nobody answers; None when there is nothing to be had."""
        try:
            text = self._fetch()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._outage.began(str(error) or type(error).__name__)
            return None
        if "gateway_" not in text:
            self._outage.began("it has no figures of a gateway: GATEWAY_METRICS_URL should end in /metrics")
            return None
        self._outage.ended()
        return counts_in(text)

    def _fetch(self) -> str:
        """Raises ValueError for an answer that is no page. Follows no redirect: the key goes nowhere else."""
        connection = self._connect()
        try:
            path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
            headers = {"Accept": "text/plain"} | (
                {"Authorization": f"Bearer {self._key}"} if self._key else {}
            )
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            if answer.status in (401, 403):
                raise ValueError(
                    f"it answers {answer.status}: name a file with its key in GATEWAY_METRICS_KEY_FILE"
                )
            if answer.status != http.client.OK:
                raise ValueError(f"it answers {answer.status} {answer.reason}")
            return answer.read(_LARGEST_PAGE_BYTES).decode("utf-8", "replace")
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        return http.client.HTTPSConnection(
            host, port, timeout=TIMEOUT_S, context=ssl.create_default_context()
        )


def counts_in(text: str) -> Counts:
    """The figures of a page. A metric that was never counted has no line, and is 0."""
    samples = list(_samples(text))
    return Counts(
        tokens=sum(value for name, _, value in samples if name == "gateway_tokens_out_total"),
        in_flight=sum(value for name, _, value in samples if name == "gateway_in_flight"),
        switches=_by_model(samples, "gateway_switches_total"),
        lost_s=_by_model(samples, "gateway_switch_lost_seconds_total"),
    )


def _samples(text: str) -> Iterator[tuple[str, str, float]]:
    for name, labels, figure in _SAMPLE.findall(text):
        try:
            yield name, labels, float(figure)
        except ValueError:
            continue


def _by_model(samples: list[tuple[str, str, float]], wanted: str) -> dict[str, float]:
    totals: dict[str, float] = {}
    for name, labels, value in samples:
        if name == wanted and (found := _MODEL.search(labels)):
            model = tag_value(found[1])
            totals[model] = totals.get(model, 0.0) + value
    return totals
