"""Whether the clients, Locust, the gateway and the engines counted the same. Exactly, or the run has failed.

Who leaves is what makes this hard. A client that closes its connection while the last token is under way is
answered for the gateway and gone for itself. So leaving is reconciled by sums: every request of a client is
in the gateway's count under one status, and only requests that were left may stand under another one than
their client would say. How many did is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.pages import Page, minus
from loadtest.records import Record

GONE = ("left", "cut")
_STATUSES = ("2xx", "4xx", "5xx", "left")


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison. ``what`` and the names of the sides are keys of the report's texts."""

    what: str
    about: str
    sides: Mapping[str, float]
    ok: bool

    def as_json(self) -> dict[str, Any]:
        return {"what": self.what, "about": self.about, "sides": dict(self.sides), "ok": self.ok}


def _equal(what: str, about: str, **sides: float) -> Check:
    return Check(what, about, sides, len(set(sides.values())) == 1)


@dataclass(frozen=True, slots=True)
class Counted:
    """What the others counted. ``engines`` and ``logged`` are None where they cannot be had: ``logged`` has
    how often each request stands in the gateway's log, by its id."""

    locust: Sequence[Mapping[str, Any]]
    gateway: Page
    engines: Mapping[str, Page] | None = None
    logged: Mapping[str, int] | None = None


def check(records: Sequence[Record], counted: Counted) -> list[Check]:
    """Everything that can be compared."""
    found = [*_with_locust(records, counted.locust)]
    sent = records
    if counted.logged is not None:
        # The end of the run may cut off a request while its connection is made: that one was never sent.
        sent = [one for one in records if one.outcome != "cut" or one.request_id in counted.logged]
        found.append(_with_log(sent, counted.logged, len(records) - len(sent)))
    found += [*_with_gateway(sent, counted.gateway), *_tokens(sent, counted.gateway)]
    if counted.engines is not None:
        found += _with_engines(sent, counted.gateway, counted.engines)
    return found


def _with_log(sent: Sequence[Record], logged: Mapping[str, int], unsent: int) -> Check:
    """Request by request: each one that was sent has one line, and no line is without a request."""
    ours = {record.request_id for record in sent}
    once = all(logged.get(name) == 1 for name in ours)
    sides = {"clients": float(len(sent)), "log": float(sum(logged.values())), "never_sent": float(unsent)}
    return Check("each_once", "", sides, once and ours == logged.keys())


def _with_locust(records: Sequence[Record], locust: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Locust knows no request that the end of the run cut off."""
    totals = [counts["total"] for counts in locust]
    ended = [record for record in records if record.outcome != "cut"]
    failed = [record for record in ended if record.outcome in ("failed", "refused")]
    return [
        _equal("requests", "", clients=len(ended), locust=sum(total["requests"] for total in totals)),
        _equal("failures", "", clients=len(failed), locust=sum(total["failures"] for total in totals)),
    ]


def _client_status(record: Record) -> str:
    if record.outcome in GONE:
        return "left"
    if record.outcome == "ok":
        return "2xx"
    if record.status == 0:
        return "none"
    if record.status == 200:  # an error inside a stream says its own status
        return f"{record.error.removeprefix('in the stream: ')[:1]}xx"
    return f"{record.status // 100}xx"


def _with_gateway(records: Sequence[Record], gateway: Page) -> list[Check]:
    found = []
    clients: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        clients.setdefault((record.model, record.route), Counter())[_client_status(record)] += 1
    known = {
        (s.labels["model"], s.labels["route"]) for s in gateway.samples if s.name == "gateway_requests_total"
    }
    for model, route in sorted(clients.keys() | known):
        counted = clients.get((model, route), Counter())
        theirs = gateway.by("gateway_requests_total", "status", model=model, route=route)
        found += _statuses(f"{model} {route}", counted, theirs)
    return found


def _statuses(about: str, clients: Counter[str], gateway: Mapping[str, float]) -> list[Check]:
    """All together are the same; each status is, but for those who left at the last moment."""
    gone = clients["left"]
    answered_anyway = gone - gateway.get("left", 0)
    found = [_equal("requests", about, clients=clients.total(), gateway=sum(gateway.values()))]
    spare = 0.0
    for status in sorted({*_STATUSES, *clients, *gateway} - {"left"}):
        more = gateway.get(status, 0) - clients[status]
        spare += max(0, more)
        sides = {"clients": float(clients[status]), "gateway": gateway.get(status, 0.0)}
        if any(sides.values()):
            found.append(Check(status, about, sides, 0 <= more <= max(0, answered_anyway)))
    if gone:
        sides = {"clients": float(gone), "gateway": gateway.get("left", 0.0), "answered_anyway": spare}
        found.append(Check("left", about, sides, gone == gateway.get("left", 0.0) + spare))
    return found


def _tokens(records: Sequence[Record], gateway: Page) -> list[Check]:
    """Exactly the same where nobody left. Otherwise: what was read, and at most what was asked for."""
    found = []
    for model in sorted({record.model for record in records}):
        ours = [record for record in records if record.model == model]
        whole = sum(record.tokens for record in ours if record.outcome == "ok")
        read = sum(record.tokens for record in ours if record.outcome != "ok")
        room = sum(record.asked_tokens for record in ours if record.outcome in (*GONE, "failed"))
        sent = gateway.sum("gateway_tokens_out_total", model=model)
        sides = {"clients": float(whole), "read_before_leaving": float(read), "gateway": sent}
        found.append(Check("tokens", model, sides, whole + read <= sent <= whole + room))
    return found


def _with_engines(records: Sequence[Record], gateway: Page, engines: Mapping[str, Page]) -> list[Check]:
    found = []
    for model, page in sorted(engines.items()):
        outcomes = gateway.by("gateway_generations_total", "outcome", model=model)
        answered = outcomes.get("ok", 0.0)
        inside = gateway.by("gateway_cancelled_total", "where", model=model)
        broken = inside.get("prefill", 0.0) + inside.get("streaming", 0.0)
        failed = gateway.sum("gateway_upstream_errors_total", model=model)
        retried = gateway.sum("gateway_retries_total", model=model)
        success = page.sum("tgi_request_success")
        dropped = page.sum("tgi_request_failure")
        found.append(
            _equal(
                "engine_requests",
                model,
                gateway=answered + broken + failed + retried,
                engine=success + dropped,
            )
        )
        finished_anyway = success - answered
        sides = {"gateway": answered, "engine": success, "answered_anyway": finished_anyway}
        found.append(Check("engine_answers", model, sides, 0 <= finished_anyway <= broken))
        found.append(_engine_tokens(model, records, page))
    return found


def _engine_tokens(model: str, records: Sequence[Record], page: Page) -> Check:
    """Whole answers. Who left as the last token came has one in the engine's count and not in its own."""
    ours = [record for record in records if record.model == model]
    whole = [record.tokens for record in ours if record.outcome == "ok"]
    extra = int(page.sum("tgi_request_success")) - len(whole)
    gone = sorted((record.asked_tokens for record in ours if record.outcome in GONE), reverse=True)
    made = page.sum("tgi_request_generated_tokens_sum")
    sides = {"clients": float(sum(whole)), "engine": made}
    return Check("engine_tokens", model, sides, sum(whole) <= made <= sum(whole) + sum(gone[: max(0, extra)]))


def grown(after: Page, before: Page) -> Page:
    """What the gateway counted between two readings: one at somebody else's has counted before."""
    return minus(after, before)
