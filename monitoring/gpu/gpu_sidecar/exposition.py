"""The latest figures as a page for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from gpu_sidecar.series import TABLE, Metric, Sample, number

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(samples: Iterable[Sample]) -> str:
    """All samples in the text format, in the order of the table."""
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        by_name.setdefault(sample.name, []).append(sample)
    return "".join(_family(metric, by_name[metric.name]) for metric in TABLE if metric.name in by_name)


def prometheus_name(metric: Metric) -> str:
    return f"gateway_{metric.name}" + ("_total" if metric.kind == "counter" else "")


def _family(metric: Metric, samples: Iterable[Sample]) -> str:
    name = prometheus_name(metric)
    lines = [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
    for sample in samples:
        labels = ",".join(f'{tag}="{sample.tags[tag]}"' for tag in metric.tags)
        lines.append(f"{name}{{{labels}}} {number(sample.value)}")
    return "\n".join(lines) + "\n"


class Exposition:
    """Serves ``/metrics`` from a thread of its own. Raises OSError when the address cannot be had."""

    def __init__(self, host: str, port: int) -> None:
        self._page = b""
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def publish(self, samples: Iterable[Sample]) -> None:
        self._page = page(samples).encode("ascii")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        exposition = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds for a client to say what it wants

            def do_GET(self) -> None:
                there = self.path.partition("?")[0] == "/metrics"
                body = exposition._page if there else b"The figures are at /metrics.\n"
                self.send_response(HTTPStatus.OK if there else HTTPStatus.NOT_FOUND)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the server's name for it
                """A page every few seconds is no event."""

        return Handler
