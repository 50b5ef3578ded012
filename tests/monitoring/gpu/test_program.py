"""The program around the figures: settings, the command line, the gateway's page, and its README."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness import REPOSITORY

from gpu_sidecar.__main__ import main, parser
from gpu_sidecar.exposition import prometheus_name
from gpu_sidecar.gateway import GatewayPage, counts_in
from gpu_sidecar.series import TABLE
from gpu_sidecar.settings import VARIABLES, Settings, WrongSettings, read_settings

PACKAGE = REPOSITORY / "monitoring" / "gpu"
README = PACKAGE / "README.md"

PAGE = """# HELP gateway_tokens_out_total tokens
# TYPE gateway_tokens_out_total counter
gateway_tokens_out_total{{arm="none",model="qwen2"}} {tokens}
gateway_tokens_out_total{{arm="none",model="llama3"}} 5.0
gateway_tokens_out_created{{arm="none",model="qwen2"}} 1.7e9
gateway_tokens_in_total{{arm="none",model="qwen2"}} 999.0
gateway_in_flight{{model="qwen2"}} 1.0
gateway_switches_total{{model="qwen2"}} {switches}
gateway_switch_lost_seconds_total{{model="qwen2"}} {lost_s}
"""


class Gateway:
    """Serves a page, and remembers which key it was asked with."""

    def __init__(self) -> None:
        self.page = PAGE.format(tokens=100, switches=0, lost_s=0)
        self.status = 200
        self.keys: list[str | None] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gateway.keys.append(self.headers["Authorization"])
                self.send_response(gateway.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(gateway.page.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/metrics"


@pytest.fixture
def page() -> Iterator[Gateway]:
    gateway = Gateway()
    thread = threading.Thread(target=gateway.server.serve_forever, args=(0.05,))
    thread.start()
    yield gateway
    gateway.server.shutdown()
    thread.join()
    gateway.server.server_close()


def test_counts_of_a_page_are_summed_over_arms_and_models() -> None:
    counts = counts_in(PAGE.format(tokens=120.0, switches=2.0, lost_s=7.5))
    assert (counts.tokens, counts.in_flight) == (125, 1)
    assert (counts.switches, counts.lost_s) == ({"qwen2": 2}, {"qwen2": 7.5})


def test_page_of_a_gateway_that_counted_nothing_yet_is_nought() -> None:
    assert counts_in("# TYPE gateway_tokens_out_total counter\n").tokens == 0


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (401, "", "it answers 401: name a file with its key in GATEWAY_METRICS_KEY_FILE"),
        (307, "", "it answers 307 Temporary Redirect"),
        (200, "<html>", "it has no figures of a gateway: GATEWAY_METRICS_URL should end in /metrics"),
    ],
)
def test_page_that_is_none_is_told_once_and_when_it_is_one_again(
    page: Gateway, caplog: pytest.LogCaptureFixture, status: int, text: str, reason: str
) -> None:
    caplog.set_level(logging.INFO, "gpu_sidecar")
    good, page.page, page.status = page.page, text, status
    reader = GatewayPage(page.url, "secret")
    assert [reader.read(), reader.read()] == [None, None]
    page.page, page.status = good, 200
    counts = reader.read()
    assert counts is not None
    assert counts.tokens == 105
    assert [record.getMessage() for record in caplog.records] == [
        f"the gateway's page {page.url} cannot be read: {reason}",
        f"the gateway's page {page.url} can be read again",
    ]
    assert page.keys == ["Bearer secret"] * 3


def test_gateway_that_does_not_listen_gives_no_counts() -> None:
    assert GatewayPage("http://127.0.0.1:9/metrics", None).read() is None


def test_stub_energy_becomes_joules_per_token_and_money(
    stub: Any, receiver: Any, start_sidecar: Any, page: Gateway, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("# ours\n\nsecret\n")
    stub.shows("gpu 12282 700\nset 0 energy 1000000\n")
    start_sidecar(
        stub,
        receiver.port,
        GATEWAY_METRICS_URL=page.url,
        GATEWAY_METRICS_KEY_FILE=key,
        PRICE_PER_KWH=0.36,
        PRICE_CURRENCY="chf",
    )
    receiver.rounds(2)
    page.page = PAGE.format(tokens=150, switches=0, lost_s=0)
    stub.shows("gpu 12282 700\nset 0 energy 1500000\n")
    receiver.until(10, "joules_per_token", host="rack1", share="all")
    receiver.until(1, "cost_per_million_tokens", currency="CHF", share="all")
    receiver.until(0.00005, "energy_cost", currency="CHF")
    assert set(page.keys) == {"Bearer secret"}


def once(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gpu_sidecar", "--once"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)


def test_stub_once_prints_what_would_be_sent(stub: Any, environment_of: Any) -> None:
    stub.shows("gpu 12282 700\nset 0 power 100000\n")
    ended = once(environment_of(stub))
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert "gw.gpu_power_watts,gpu=0,uuid=GPU-stub-0,host=rack1:100|g" in lines
    assert lines[-1].startswith("gw.gpu_energy_joules,gpu=0,uuid=GPU-stub-0,host=rack1,source=power:")


def test_once_without_a_driver_says_so_and_fails(no_library: Any, environment_of: Any) -> None:
    ended = once(environment_of(no_library))
    assert ended.returncode == 1
    assert ended.stdout == "gw.gpu_up,gpu=none,uuid=none,host=rack1:0|g\n"
    assert "there is no NVIDIA driver here" in ended.stderr


def test_settings_are_defaults_where_nothing_is_set() -> None:
    settings = read_settings({"PRICE_PER_KWH": " ", "SIDECAR_STATSD_PORT": ""})
    assert (settings.statsd_host, settings.statsd_port, settings.price_per_kwh) == ("127.0.0.1", 8125, None)
    assert settings.host


def test_all_that_is_wrong_with_the_settings_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# no key\n")
    wrong = {
        "SIDECAR_INTERVAL_S": "0",
        "SIDECAR_STATSD_PORT": "66000",
        "SIDECAR_LOG_LEVEL": "loud",
        "GATEWAY_METRICS_URL": "gateway:8000",
        "GATEWAY_METRICS_KEY_FILE": str(tmp_path / "empty"),
        "PRICE_PER_KWH": "nan",
        "PRICE_CURRENCY": "francs",
    }
    with pytest.raises(WrongSettings) as raised:
        read_settings(wrong)
    assert str(raised.value).splitlines() == [
        "SIDECAR_INTERVAL_S='0': a number from 0.05 to 3600 is expected.",
        "SIDECAR_STATSD_PORT='66000': a whole number from 1 to 65535 is expected.",
        "SIDECAR_LOG_LEVEL='loud': one of debug, info, warning, error is expected.",
        "GATEWAY_METRICS_URL='gateway:8000': an address such as http://gateway:8000/metrics is expected.",
        f"GATEWAY_METRICS_KEY_FILE='{tmp_path / 'empty'}': the file holds no key.",
        "PRICE_PER_KWH='nan': a number from 0 to 1e+06 is expected.",
        "PRICE_CURRENCY='francs': three letters such as EUR are expected.",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("GATEWAY_METRICS_URL", "http://user:pw@gateway/metrics"),
        ("GATEWAY_METRICS_URL", "http://gateway:99999/metrics"),
        ("GATEWAY_METRICS_URL", "ftp://gateway/metrics"),
        ("GATEWAY_METRICS_KEY_FILE", "/nowhere/at/all"),
        ("SIDECAR_INTERVAL_S", "often"),
        ("SIDECAR_PROMETHEUS_PORT", "-1"),
    ],
)
def test_wrong_setting_is_refused(name: str, text: str) -> None:
    with pytest.raises(WrongSettings, match=f"^{name}="):
        read_settings({name: text})


def test_wrong_setting_stops_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIDECAR_STATSD_PORT", "none")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("SIDECAR_STATSD_PORT='none': ")


def rows(heading: str) -> list[tuple[str, ...]]:
    """The table under a heading of the README."""
    text = README.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def test_readme_has_every_metric_as_it_is() -> None:
    documented = [(name, kind, tags, meaning) for name, _, kind, tags, meaning in rows("What it tells")]
    assert documented == [
        (f"`gw.{metric.name}`", metric.kind, " ".join(f"`{tag}`" for tag in metric.tags), metric.help)
        for metric in TABLE
    ]
    pages = [page for _, page, *_ in rows("What it tells")]
    assert pages == [f"`{prometheus_name(metric)}`" for metric in TABLE]


def test_readme_has_every_setting_as_it_is() -> None:
    def said(value: object) -> str:
        return "none" if value in (None, "") else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"

    assert rows("Settings") == [
        (f"`{variable.name}`", said(variable.default), variable.help) for variable in VARIABLES
    ]
    assert {variable.field for variable in VARIABLES} == set(Settings.__slots__)


def test_help_names_every_setting() -> None:
    told = parser().format_help()
    assert all(variable.name in told for variable in VARIABLES)


def test_sidecar_stands_alone() -> None:
    """It is a small image of its own: the standard library and NVIDIA's binding, nothing of the gateway."""
    imported = set()
    for module in (PACKAGE / "gpu_sidecar").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"gpu_sidecar"}


def test_requirements_are_pinned_with_hashes_and_agree_with_those_of_the_tests() -> None:
    text = (PACKAGE / "requirements.lock").read_text(encoding="utf-8")
    pinned = re.findall(r"^([a-z-]+==[0-9.]+) \\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert [pin.partition("==")[0] for pin in pinned] == ["nvidia-ml-py"]
    assert f"\n{pinned[0]} " in (REPOSITORY / "requirements" / "dev.lock").read_text(encoding="utf-8")
