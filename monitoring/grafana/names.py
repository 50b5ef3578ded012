"""Measurements that dashboards show and that neither the gateway nor the sidecar sends: a load test's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of the table in docs/MONITORING.md. ``gw.`` before the name on StatsD, ``gw_`` in InfluxDB."""

    name: str
    kind: Literal["counter", "gauge", "timing"]
    help: str
    tags: tuple[str, ...] = ()


LOAD_TEST = (
    Measured("locust_requests", "counter", "requests that clients finished, failed ones too", ("name",)),
    Measured("locust_failures", "counter", "requests that failed for clients", ("name",)),
    Measured("locust_response_time", "timing", "from sending to the last byte, ms", ("name",)),
    Measured("locust_first_token", "timing", "from sending to the first token, ms", ("name",)),
    Measured("locust_users", "gauge", "simulated users at work"),
)
