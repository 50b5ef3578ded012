"""The command line: what it means, and which of the two faces of the chat it opens."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

from gateway.chat import params as parameters
from gateway.chat.client import GatewayClient
from gateway.chat.language import texts_for
from gateway.chat.plain import answer_once
from gateway.chat.session import GENERAL, Session
from gateway.chat.terminal import Chat
from gateway.chat.texts import Texts
from gateway.chat.wording import did_you_mean

DEFAULT_URL: Final = "http://127.0.0.1:8000"
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130
EXIT_TERMINATED: Final = 143


class UsageError(ValueError):
    """What was asked for cannot be done as it was written; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chat; the exit code is 0, 1 (no answer), 2 (wrong usage) or 130 (interrupted)."""
    for stream in (sys.stdout, sys.stderr):
        # A locale without a character for something must not end a conversation.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    texts = texts_for(os.environ)
    options = build_parser(texts).parse_args(arguments)
    try:
        return _run(options, texts)
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except asyncio.CancelledError:
        return EXIT_TERMINATED


def build_parser(texts: Texts) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chat_cli.py", description=texts.about)
    add = parser.add_argument
    add("prompt", nargs="*", metavar="PROMPT", help=texts.arg_prompt)
    add("--url", type=gateway_url, default=DEFAULT_URL, help=texts.arg_url)
    add("--model", metavar="ID", help=texts.arg_model)
    add("--scenario", metavar="NAME", default=GENERAL, help=texts.arg_scenario)
    add("--system", metavar="TEXT", help=texts.arg_system)
    add("--param", metavar="NAME=VALUE", action="append", default=[], help=texts.arg_param)
    add("--api-key-file", metavar="FILE", type=Path, help=texts.arg_key_file)
    add("-q", "--quiet", action="store_true", help=texts.arg_quiet)
    return parser


def gateway_url(text: str) -> str:
    """``text`` as an address, http:// where it names no scheme."""
    try:
        url = httpx.URL(text if "://" in text else f"http://{text}")
    except httpx.InvalidURL as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error
    port_is_wrong = url.port is not None and not 0 < url.port < 65536
    if url.scheme not in ("http", "https") or not url.host or port_is_wrong:
        raise argparse.ArgumentTypeError(f"{text}: http://HOST:PORT")
    return str(url).rstrip("/")


def _run(options: argparse.Namespace, texts: Texts) -> int:
    session = Session(
        model=options.model,
        scenario=options.scenario,
        system=options.system,
        params=_parameters(options.param, texts),
    )
    api_key = read_api_key(options.api_key_file, os.environ, texts)
    if not options.prompt and sys.stdin.isatty() and sys.stdout.isatty():
        return asyncio.run(_chat(options.url, api_key, session, texts))
    prompt = read_prompt(options.prompt, texts)
    return asyncio.run(_answer(options.url, api_key, session, prompt, texts, quiet=options.quiet))


async def _chat(url: str, api_key: str | None, session: Session, texts: Texts) -> int:
    async with GatewayClient(url, api_key) as client:
        return await Chat(client, session, texts).run()


async def _answer(
    url: str, api_key: str | None, session: Session, prompt: str, texts: Texts, *, quiet: bool
) -> int:
    async with GatewayClient(url, api_key) as client:
        return await answer_once(client, session, prompt, texts, quiet=quiet)


def read_api_key(path: Path | None, environment: Mapping[str, str], texts: Texts) -> str | None:
    key = environment.get("GATEWAY_API_KEY", "")
    if path is not None:
        try:
            key = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UsageError(texts.key_file_unreadable.format(path=path, reason=error.strerror)) from error
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(texts.key_not_text)
    return key or None


def read_prompt(words: Sequence[str], texts: Texts) -> str:
    """The PROMPT words, with standard input in place of a lone ``-``; all of it when there are none."""
    piped = _piped(texts) if not words or "-" in words else ""
    prompt = " ".join(words) if words else piped
    if "-" in words:
        before, after = (" ".join(part) for part in _around(words, words.index("-")))
        prompt = "\n\n".join(part for part in (before, piped.strip("\n"), after) if part)
    if not prompt.strip():
        raise UsageError(texts.prompt_empty)
    return prompt.strip("\n")


def _around(words: Sequence[str], at: int) -> tuple[Sequence[str], Sequence[str]]:
    return words[:at], words[at + 1 :]


def _piped(texts: Texts) -> str:
    if sys.stdin.isatty():
        print(texts.stdin_hint, file=sys.stderr)  # noqa: T201
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(texts.stdin_not_text) from error


def _parameters(words: Sequence[str], texts: Texts) -> dict[str, object]:
    result: dict[str, object] = {}
    for word in words:
        try:
            result = parameters.changed(result, [word])
        except parameters.MalformedParameter as error:
            raise UsageError(texts.params_malformed.format(word=error.word)) from error
        except parameters.UnknownParameter as error:
            guess = did_you_mean(texts, error.name, parameters.NAMES) or ""
            raise UsageError(f"{texts.params_unknown.format(name=error.name)} {guess}".rstrip()) from error
    return result
