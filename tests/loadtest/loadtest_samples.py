"""Records and pages made by hand: a small run in which everybody counted the same."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadtest.agreement import Check, Counted, check
from loadtest.pages import Page
from loadtest.records import Record

MODEL = "qwen2"


def record(number: int, **given: Any) -> Record:
    """A plain answer of 10 tokens in a second, unless told otherwise."""
    receipt = {"queue_ms": 0.1, "load_ms": 0.0, "prefill_ms": 100.0, "decode_ms": 899.0, "gateway_ms": 0.9}
    usual: dict[str, Any] = {
        "at": 1000.0 + number,
        "user": "SeedUser",
        "kind": "plain",
        "model": MODEL,
        "route": "generate",
        "request_id": f"load-{number:016x}",
        "asked_tokens": 10,
        "outcome": "ok",
        "status": 200,
        "total_ms": 1001.0,
        "tokens": 10,
        "prompt_tokens": 20,
        "receipt": {**receipt, "total_ms": 1000.0},
    }
    return Record(**{**usual, **given})


@dataclass
class Scene:
    """Ten answers, and one user who left after three tokens: what each of the four counted."""

    records: list[Record] = field(
        default_factory=lambda: [
            *(record(number) for number in range(10)),
            record(10, kind="impatient", outcome="left", tokens=3, receipt={}, status=200),
        ]
    )
    locust_requests: int = 11
    statuses: dict[str, int] = field(default_factory=lambda: {"2xx": 10, "left": 1})
    ok: int = 10
    streaming: int = 1
    tokens_out: int = 104
    engine_success: int = 10
    engine_dropped: int = 1
    engine_tokens: int = 100
    logged: dict[str, int] | None = None

    def gateway(self) -> Page:
        lines = [
            f'gateway_requests_total{{model="{MODEL}",route="generate",status="{status}",arm="none"}} {count}'
            for status, count in self.statuses.items()
        ]
        lines += [
            f'gateway_generations_total{{model="{MODEL}",outcome="ok"}} {self.ok}',
            f'gateway_generations_total{{model="{MODEL}",outcome="client_gone"}} {self.streaming}',
            f'gateway_cancelled_total{{model="{MODEL}",where="streaming"}} {self.streaming}',
            f'gateway_tokens_out_total{{model="{MODEL}",arm="none"}} {self.tokens_out}',
        ]
        return Page.parse("\n".join(lines))

    def engine(self) -> Page:
        return Page.parse(
            f"tgi_request_success {self.engine_success}\n"
            f'tgi_request_failure{{err="dropped"}} {self.engine_dropped}\n'
            f"tgi_request_generated_tokens_sum {self.engine_tokens}\n"
        )

    def checks(self) -> list[Check]:
        logged = self.logged
        if logged is None:
            logged = dict.fromkeys((one.request_id for one in self.records), 1)
        failed = sum(one.outcome in ("failed", "refused") for one in self.records)
        locust = {"total": {"requests": self.locust_requests, "failures": failed}}
        return check(self.records, Counted([locust], self.gateway(), {MODEL: self.engine()}, logged))

    def wrong(self) -> set[str]:
        return {one.what for one in self.checks() if not one.ok}
