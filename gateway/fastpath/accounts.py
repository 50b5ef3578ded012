"""What a request on the fast path adds to the figures: the same as on the ordinary way, looked up once."""

from __future__ import annotations

from gateway.api.labels import route_label
from gateway.journey import FigureBook
from gateway.logs import AccessLog, Alike
from gateway.metrics import Metrics
from gateway.trail import NONE


class Accounts:
    """The series of one route and model."""

    __slots__ = (
        "_answers",
        "_log",
        "_metrics",
        "_model",
        "_path",
        "_route",
        "answered",
        "figures",
        "finished",
        "generations_open",
        "requests_open",
        "responded",
        "total_s",
    )

    def __init__(self, metrics: Metrics, book: FigureBook, log: AccessLog, path: str, model: str) -> None:
        route = route_label("POST", path)
        self._path = path
        self._log = log
        self._answers = Alike(log, f"POST {path} 200", route=path, status="200", model=model)
        self._metrics = metrics
        self._model = model
        self._route = route
        self.figures = book.of(model)
        self.requests_open = metrics.level("gateway_http_requests_open")
        self.generations_open = metrics.level("gateway_generations_open", model=model)
        self.responded = metrics.counter("gateway_http_requests_total", route=route, status="200")
        self.answered = metrics.counter(
            "gateway_requests_total", model=model, route=route, status="2xx", arm=NONE
        )
        self.finished = metrics.counter("gateway_generations_total", model=model, outcome="ok")
        self.total_s = metrics.spread("gateway_total_seconds", model=model, route=route, arm=NONE)

    def opened(self) -> None:
        """A request is on its way."""
        self.requests_open.value += 1
        self.generations_open.value += 1

    def closed(self) -> None:
        """It is over, or goes on the ordinary way."""
        self.requests_open.value -= 1
        self.generations_open.value -= 1

    def succeeded(self, total_s: float) -> None:
        """It was answered."""
        self.responded.value += 1
        self.answered.value += 1
        self.finished.value += 1
        self.total_s.observe(total_s)

    def ended(self, outcome: str, http_status: str, status: str) -> None:
        """It ended in another way. ``http_status`` is what the client saw, ``status`` what that means."""
        metrics, model, route = self._metrics, self._model, self._route
        metrics.count("gateway_generations_total", model=model, outcome=outcome)
        metrics.count("gateway_http_requests_total", route=route, status=http_status)
        metrics.count("gateway_requests_total", model=model, route=route, status=status, arm=NONE)

    def log(self, request_id: str, status: str, total_s: float, tokens: int | None) -> None:
        """Its line in the access log."""
        if status == "200":
            self._answers.write(request_id, total_s, tokens)
            return
        path, model = self._path, self._model
        other = Alike(self._log, f"POST {path} {status}", route=path, status=status, model=model)
        other.write(request_id, total_s, tokens)

    def left(self, where: str) -> None:
        """Its client did not wait for the end."""
        self._metrics.count("gateway_cancelled_total", model=self._model, where=where)
