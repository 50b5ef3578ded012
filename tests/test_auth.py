"""Who may ask: keys where there are some, this machine alone where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.auth import Keys, ThisMachine
from gateway.errors import Forbidden, Unauthorized
from gateway.main import _supervisor_token
from gateway.settings import Settings, SettingsError


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment\n"])
def test_key_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(SettingsError, match=f"GATEWAY_API_KEY_FILE={path} has no key in it"):
        Keys.from_settings(Settings(api_key_file=path))


def test_key_of_blanks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", "  ")

    with pytest.raises(SettingsError, match="GATEWAY_API_KEY has no key in it"):
        Keys.from_settings(Settings())


def test_blanks_around_a_key_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", " right\n")

    keys = Keys.from_settings(Settings())

    keys.check("Bearer right")
    with pytest.raises(Unauthorized):
        keys.check("Bearer wrong")


def test_supervisor_token_file_without_a_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(" \n", encoding="utf-8")

    with pytest.raises(SettingsError, match=f"GATEWAY_SUPERVISOR_TOKEN_FILE={path} is empty"):
        _supervisor_token(Settings(supervisor_token_file=path))


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", None),
        ("127.8.9.10", None),
        ("localhost:9000", "http://localhost:3000"),
        ("LocalHost", None),
        ("[::1]:8000", "http://127.0.0.1:8000"),
        ("gpu-box:8000", "http://gpu-box:8000"),
    ],
)
def test_this_machine_may_ask_under_its_own_names(host: str, origin: str | None) -> None:
    ThisMachine("gpu-box").check(host, origin)


@pytest.mark.parametrize(
    ("host", "origin", "named"),
    [
        ("rebound.example:8000", None, "rebound.example:8000"),
        ("localhost.example", None, "localhost.example"),
        ("127.0.0.1.example", None, "127.0.0.1.example"),
        ("127.0.0.1@other.example", None, "other.example"),
        ("[::1", None, "::1"),
        ("192.168.0.7", None, "192.168.0.7"),
        (None, None, "without a name"),
        ("127.0.0.1:8000", "https://page.example", "https://page.example"),
        ("127.0.0.1:8000", "null", "null"),
        ("127.0.0.1:8000", "", "Web pages"),
    ],
)
def test_others_names_and_others_pages_are_refused(host: str | None, origin: str | None, named: str) -> None:
    with pytest.raises(Forbidden, match="gateway") as refused:
        ThisMachine("127.0.0.1").check(host, origin)
    assert named in refused.value.message
