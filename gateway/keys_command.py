"""``python -m gateway keys``: make, list and revoke API keys."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gateway import keyfile
from gateway.keyfile import SCOPES, KeyFileError


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, help="GATEWAY_KEYS_FILE if not given")
    actions = parser.add_subparsers(required=True, metavar="ACTION", dest="action")
    new = actions.add_parser("new", help="make a key and show it, once")
    new.add_argument("name", help="whose it is, such as laptop")
    new.add_argument(
        "--scope", action="append", choices=SCOPES, help="what it is for; repeatable; generate if not given"
    )
    ensure = actions.add_parser(
        "ensure", help="make a first key, for every scope, unless there is one already"
    )
    ensure.add_argument("name")
    ensure.add_argument("--out", type=Path, required=True, help="where the key goes, readable for its owner")
    actions.add_parser("list", help="names, scopes and days; never the keys")
    revoke = actions.add_parser("revoke", help="take a key away; a running gateway notices within a second")
    revoke.add_argument("name")


def run(options: argparse.Namespace, default: Path) -> int:
    """Print what was done; returns the exit status."""
    path: Path = options.file or default
    try:
        if options.action == "new":
            _new(path, options)
        elif options.action == "ensure":
            _ensure(path, options.name, options.out)
        elif options.action == "revoke":
            keyfile.revoke(path, options.name)
            print(f"{options.name} is revoked.")  # noqa: T201
        else:
            _list(path)
    except KeyFileError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _new(path: Path, options: argparse.Namespace) -> None:
    existed = path.exists()
    secret = keyfile.new(path, options.name, options.scope or ["generate"])
    print(secret)  # noqa: T201  alone on standard output, so that a script can take it
    said = [f"This is the only time that the key is shown. Its digest is in {path}."]
    if not existed:
        said.append("From its next start on the gateway asks everybody for a key.")
    print(*said, file=sys.stderr)  # noqa: T201


def _ensure(path: Path, name: str, out: Path) -> None:
    """For a first start without anybody at the keyboard: containers call this each time."""
    if path.exists():
        print(f"There are keys already, in {path}.")  # noqa: T201
        return
    secret = keyfile.new(path, name, ["admin"])
    try:
        out.touch(mode=0o600)
        out.write_text(f"{secret}\n", encoding="utf-8")
    except OSError as error:
        keyfile.revoke(path, name)
        path.unlink()
        raise KeyFileError(f"{out} cannot be written: {error.strerror or error}. No key was made.") from error
    print(f"A first key, for every scope, is in {out}.")  # noqa: T201


def _list(path: Path) -> None:
    keys = keyfile.read(path)
    if not keys:
        print(f"There are no keys in {path}.")  # noqa: T201
    width = max((len(key.name) for key in keys), default=0)
    for key in keys:
        scopes = ",".join(scope for scope in SCOPES if scope in key.scopes)
        print(f"{key.name:{width}}  {key.created}  {scopes}")  # noqa: T201
