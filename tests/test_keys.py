"""Keys in a file: made once, shown once, for some routes only, and revoked while the gateway runs."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from harness import model, start_gateway, until

from gateway import keyfile
from gateway.auth import RELOAD_S, Keys, scope_of
from gateway.cli import main
from gateway.errors import Forbidden, Unauthorized
from gateway.keyfile import KeyFileError
from gateway.settings import Settings, SettingsError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets" / "keys"


def test_the_file_has_no_key_in_it_and_is_its_owners_alone(path: Path) -> None:
    secret = keyfile.new(path, "laptop", ["generate"])
    assert secret.startswith("gw-")
    assert len(secret) > 40
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (key,) = keyfile.read(path)
    assert (key.name, key.scopes, key.digest) == ("laptop", {"generate"}, keyfile.digest_of(secret))


def test_two_commands_at_once_lose_no_key(path: Path) -> None:
    names = [f"key{at}" for at in range(20)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: keyfile.new(path, name, ["generate"]), names))
    assert sorted(key.name for key in keyfile.read(path)) == sorted(names)


@pytest.mark.parametrize("name", ["", "-x", "two words", "a/b", "x" * 65, "käse"])
def test_a_name_that_would_break_the_file_is_refused(path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="is no name for a key"):
        keyfile.new(path, name, ["generate"])
    assert not path.exists()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("gw-some-key-itself", id="a bare key"),
        pytest.param(f"laptop root sha256:{'a' * 64} 2026-01-01", id="unknown scope"),
        pytest.param(f"laptop generate, sha256:{'a' * 64} 2026-01-01", id="empty scope"),
        pytest.param(f"laptop generate sha256:{'a' * 63} 2026-01-01", id="short digest"),
    ],
)
def test_a_line_that_is_no_key_is_named_and_not_repeated(path: Path, line: str) -> None:
    path.parent.mkdir()
    path.write_text(f"# head\n{line}\n")
    with pytest.raises(KeyFileError, match="line 2 is no key") as caught:
        keyfile.read(path)
    assert line not in str(caught.value)
    with pytest.raises(SettingsError, match="line 2 is no key"):
        Keys.from_settings(Settings(keys_file=path))


@pytest.mark.parametrize(
    ("scopes", "route", "may"),
    [
        (["generate"], ("POST", "/v1/generate"), True),
        (["generate"], ("GET", "/v1/models"), True),
        (["generate"], ("POST", "/models/qwen2/generate"), True),
        (["generate"], ("GET", "/metrics"), False),
        (["generate"], ("POST", "/v1/models/qwen2/unload"), False),
        (["generate"], ("GET", "/v1/models/qwen2/logs"), False),
        (["metrics"], ("GET", "/metrics"), True),
        (["metrics"], ("POST", "/v1/generate"), False),
        (["admin"], ("GET", "/metrics"), True),
        (["admin"], ("POST", "/v1/models/qwen2/load"), True),
        (["admin"], ("POST", "/v1/generate"), True),
    ],
)
def test_a_key_opens_what_it_is_for(
    path: Path, scopes: list[keyfile.Scope], route: tuple[str, str], *, may: bool
) -> None:
    secret = keyfile.new(path, "one", scopes)
    keys = Keys([], path)
    if may:
        keys.check(f"Bearer {secret}", scope=scope_of(*route))
    else:
        with pytest.raises(Forbidden, match=f"This key is for {scopes[0]}"):
            keys.check(f"Bearer {secret}", scope=scope_of(*route))


def test_changes_of_the_file_count_after_a_second_and_a_damaged_one_changes_nothing(path: Path) -> None:
    clock = Clock()
    first = keyfile.new(path, "first", ["generate"])
    keys = Keys([], path, clock)
    second = keyfile.new(path, "second", ["generate"])
    keyfile.revoke(path, "first")
    keys.check(None, first)
    clock.now += RELOAD_S
    keys.check(None, second)
    with pytest.raises(Unauthorized):
        keys.check(None, first)

    path.write_text("damaged")
    clock.now += RELOAD_S
    keys.check(None, second)


def test_a_file_whose_last_key_was_revoked_opens_nothing(path: Path) -> None:
    secret = keyfile.new(path, "only", ["generate"])
    keyfile.revoke(path, "only")
    keys = Keys.from_settings(Settings(keys_file=path))
    assert keys.asked_for
    with pytest.raises(Unauthorized):
        keys.check(None, secret)
    with pytest.raises(Unauthorized):
        keys.check(None, None)


def test_a_file_in_the_run_directory_is_enough_to_listen_to_the_network(tmp_path: Path) -> None:
    settings = Settings(host="0.0.0.0", run_dir=tmp_path)
    with pytest.raises(SettingsError, match="keys new NAME"):
        Keys.from_settings(settings)
    keyfile.new(tmp_path / "keys", "laptop", ["generate"])
    assert Keys.from_settings(settings).asked_for


# ---------------------------------------------------------------- the command, and a gateway that runs


def test_the_command_makes_lists_and_revokes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["keys", "--file", str(path)]
    assert main([*at, "new", "laptop", "--scope", "generate", "--scope", "metrics"]) == 0
    made = capsys.readouterr()
    assert made.out.strip().startswith("gw-")
    assert "only time" in made.err
    assert main([*at, "list"]) == 0
    listed = capsys.readouterr().out
    assert "laptop" in listed
    assert "generate,metrics" in listed
    assert made.out.strip() not in listed
    assert main([*at, "new", "laptop"]) == 1
    assert "There is a key `laptop`" in capsys.readouterr().err
    assert main([*at, "revoke", "laptop"]) == 0
    assert main([*at, "revoke", "laptop"]) == 1
    assert "There are: none" in capsys.readouterr().err


def test_a_first_key_is_made_once_and_opens_everything(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "api-key"
    ensure = ["keys", "--file", str(path), "ensure", "first", "--out", str(out)]
    assert main(ensure) == 0
    secret = out.read_text().strip()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    Keys([], path).check(None, secret, "admin")
    assert main(ensure) == 0
    assert out.read_text().strip() == secret
    assert len(keyfile.read(path)) == 1


def test_a_first_key_that_nobody_could_see_is_not_kept(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "no-such-folder" / "api-key"
    assert main(["keys", "--file", str(path), "ensure", "first", "--out", str(out)]) == 1
    assert not path.exists()


def test_a_revoked_key_is_refused_while_the_gateway_runs(tmp_path: Path, path: Path) -> None:
    secret = keyfile.new(path, "laptop", ["generate"])
    gateway = start_gateway(tmp_path, {"models": [model("http://127.0.0.1:9")]}, keys_file=path)
    try:
        with httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {secret}"}) as client:
            assert client.get("/v1/models").status_code == 200
            refused = client.get("/metrics")
            assert refused.status_code == 403
            assert refused.json()["error"]["type"] == "forbidden"
            keyfile.revoke(path, "laptop")
            until(lambda: client.get("/v1/models").status_code == 401, "the refusal of the revoked key")
        assert secret not in gateway.output
    finally:
        gateway.stop()
