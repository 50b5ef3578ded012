"""The guides are true: requests against a gateway, commands against the program, two languages alike."""

from __future__ import annotations

import argparse
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from documents import REPOSITORY, code_blocks, headings, inline_code, text_of, without_code
from fastapi.routing import APIRoute
from harness import Running, echo_command, start_gateway
from pydantic_core import from_json

from gateway import cli
from gateway.main import create_app
from gateway.metrics import TABLE
from gateway.settings import Settings

DOCS = REPOSITORY / "docs"
API = DOCS / "API.md"
GUIDES = [DOCS / f"{name}.md" for name in ("API", "DEPLOY", "QUANTIZATION", "OPERATIONS")]
EVERY_GUIDE = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
ADDRESS = "http://127.0.0.1:8000"
ENDLESS = "/v1/events"
SOMETIMES = {"reason", "progress"}
"""Fields that an answer has only while there is something to say."""


# ---------------------------------------------------------------- requests against a gateway


@dataclass(frozen=True, slots=True)
class Example:
    """One curl command, and what the guide says it gives."""

    command: str
    status: int
    language: str
    answer: str

    @property
    def request(self) -> dict[str, Any]:
        """As httpx takes it. Fails on an option that it does not know, so that none is passed over."""
        options = argparse.ArgumentParser(exit_on_error=False)
        options.add_argument("url")
        options.add_argument("-X")
        options.add_argument("-H", action="append", default=[])
        options.add_argument("-d")
        options.add_argument("-N", action="store_true")
        options.add_argument("-i", action="store_true")
        found = options.parse_args(shlex.split(self.command)[1:])
        assert found.url.startswith(ADDRESS + "/"), self.command
        headers = dict(header.split(": ", 1) for header in found.H)
        method = found.X or ("POST" if found.d else "GET")
        return {
            "method": method,
            "url": found.url.removeprefix(ADDRESS),
            "headers": headers,
            "content": found.d,
        }


def examples() -> Iterator[Example]:
    blocks = [*code_blocks(text_of(API)), ("", "")]
    for (language, block), (after, answer) in itertools.pairwise(blocks):
        lines = [line for line in block.splitlines() if line.startswith("curl ")]
        if language != "sh":
            assert not lines, "an example in a block that nobody runs"
            continue
        for line in lines:
            said = (after, answer) if line is lines[-1] and after in ("json", "http", "text") else ("", "")
            yield Example(line, _status(*said), *said)


def _status(language: str, answer: str) -> int:
    if language == "http":
        return int(answer.split()[1])
    if language == "json" and "error" in (body := from_json(answer)):
        return int(body["error"]["status"])
    return HTTPStatus.OK


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What `make up` starts, with the guide's own lines in its registry and engines that load at once."""
    registry = yaml.safe_load(text_of(REPOSITORY / "models" / "local.yaml"))
    for model in registry["models"]:
        model["command"] = echo_command("{port}", python="{python}", model_id=model["id"])
    for device in registry["devices"]:
        device["reader"] = "none"  # an engine without weights would leave room for the other one
    registry["switching"] = {"max_wait_s": 1, "min_residency_s": 0}
    for language, block in code_blocks(text_of(API)):
        if language == "yaml":
            registry |= yaml.safe_load(block)
    gateway = start_gateway(tmp_path_factory.mktemp("guides"), registry)
    yield gateway
    gateway.stop()


def test_every_example_gives_the_status_and_has_the_fields_that_stand_there(running: Running) -> None:
    found = list(examples())
    assert len(found) >= 30
    with httpx.Client(base_url=running.url, timeout=30) as client:
        for example in found:
            status, text = _ask(client, example)
            assert status == example.status, (example.command, text)
            _compare(example, text)


def _ask(client: httpx.Client, example: Example) -> tuple[int, str]:
    with client.stream(**example.request) as response:
        if example.request["url"] == ENDLESS:
            return response.status_code, next(response.iter_text())
        response.read()
        return response.status_code, response.text


def _compare(example: Example, text: str) -> None:
    if example.language in ("json", "http"):
        said = example.answer.rpartition("\n\n")[2] if example.language == "http" else example.answer
        _same_fields(from_json(said), from_json(text), example.command)
    elif example.language == "text":
        assert _events(example.answer) <= _events(text) | {"queued", "draining", "loading", "ready"}
        assert ("[DONE]" in example.answer) == ("[DONE]" in text), example.command


def _events(text: str) -> set[str]:
    return set(re.findall(r"^event: (\w+)$", text, re.MULTILINE))


def _same_fields(said: Any, given: Any, where: str) -> None:
    """Every field that is shown is there, first entries stand for lists. Values are the engine's business."""
    if isinstance(said, dict) and isinstance(given, dict):
        assert set(said) - SOMETIMES <= set(given), where
        for name in set(said) & set(given):
            _same_fields(said[name], given[name], f"{where} → {name}")
    elif isinstance(said, list) and isinstance(given, list) and said and given:
        _same_fields(said[0], given[0], f"{where} → [0]")


def test_every_route_is_in_the_guide() -> None:
    app = create_app(Settings(), cli.load_registry(REPOSITORY / "models" / "local.yaml"))
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    named = set(inline_code(text_of(API)))
    wanted = {f"{method} {route.path.replace(':path}', '}')}" for route in routes for method in route.methods}
    assert wanted - named == set()
    assert {name for name in named if re.match(r"(GET|HEAD|POST) /", name)} - wanted == {
        "GET /docs",
        "GET /openapi.json",
    }


# ---------------------------------------------------------------- commands, settings, names


def consoles(guide: Path) -> list[str]:
    """Every line that a guide tells people to type."""
    blocks = [block for language, block in code_blocks(text_of(guide)) if language == "console"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" # ")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@EVERY_GUIDE
def test_commands_of_the_gateway_are_ones_it_has(guide: Path) -> None:
    for line in consoles(guide):
        _, found, arguments = line.partition("-m gateway ")
        if found:
            try:
                cli._parser().parse_args(shlex.split(arguments))
            except SystemExit as error:
                pytest.fail(f"{guide.name}: {line}: {error}")


@EVERY_GUIDE
def test_what_plan_prints_is_what_it_prints(guide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = code_blocks(text_of(guide))
    for (language, block), (after, answer) in itertools.pairwise(blocks):
        command = block.strip().splitlines()[-1]
        if language == "console" and "-m gateway plan" in command and after == "text":
            arguments = shlex.split(command.partition("-m gateway ")[2])
            assert cli.main([*arguments, "--config", str(REPOSITORY / "models/models.yaml")]) == cli.OK
            printed = capsys.readouterr().out
            for part in answer.split("…\n"):
                assert part.strip("\n") in printed, command


@EVERY_GUIDE
def test_settings_and_variables_that_are_named_exist(guide: Path) -> None:
    files = [
        REPOSITORY / ".env.example",
        REPOSITORY / "docker.env.example",
        *REPOSITORY.glob("*compose*.yml"),
    ]
    known = "\n".join(text_of(file) for file in files)
    named = set(re.findall(r"\b(?:GATEWAY|QWEN2|LLAMA3|TGI|VLLM)_[A-Z_]+\b", text_of(guide)))
    assert [name for name in sorted(named) if name not in known] == []


@EVERY_GUIDE
def test_files_that_commands_name_exist(guide: Path) -> None:
    text = "\n".join([*consoles(guide), *inline_code(text_of(guide))])
    named = set(
        re.findall(r"(?<![\w/.])(?:[\w-]+/)*docker-compose[\w.]*\.yml|(?<![\w/.])models/[\w-]+\.yaml", text)
    )
    made = {line.split()[-1] for line in consoles(guide) if line.startswith("cp ")}
    assert [name for name in sorted(named - made) if not (REPOSITORY / name).exists()] == []


@EVERY_GUIDE
def test_metrics_that_are_named_exist(guide: Path) -> None:
    known = {metric.name for metric in TABLE} | {"gateway_ms"}  # a part of the receipt
    named = set(re.findall(r"\bgateway_[a-z_]+\b", "\n".join(inline_code(text_of(guide)))))
    assert named - known == set()


# ---------------------------------------------------------------- two languages


def chinese(guide: Path) -> Path:
    return guide.with_suffix(".zh-CN.md")


@EVERY_GUIDE
def test_both_languages_have_the_same_chapters_and_code(guide: Path) -> None:
    english, other = text_of(guide), text_of(chinese(guide))
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(other)]
    assert code_blocks(english) == code_blocks(other)


@EVERY_GUIDE
def test_both_languages_lead_to_the_same_places(guide: Path) -> None:
    assert places(guide) == places(chinese(guide))


def places(document: Path) -> Mapping[str, int]:
    """How often a document links to which other one, whatever the language."""
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(document)))
    found: dict[str, int] = {}
    for link in links:
        target = link if link.startswith("http") else link.partition("#")[0].replace(".zh-CN", "")
        found[target] = found.get(target, 0) + 1
    return found


@EVERY_GUIDE
def test_both_languages_have_the_same_tables(guide: Path) -> None:
    rows = [
        [line.count("|") for line in text_of(path).splitlines() if line.startswith("|")]
        for path in (guide, chinese(guide))
    ]
    assert rows[0] == rows[1]
