"""The reference is true: its tables against the code, its options against the programs."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, get_args

import pytest
from documents import REFERENCE, REPOSITORY, text_of
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import gateway
from gateway import cli, supervisor
from gateway import config as configuration
from gateway.api.native import GenerateAnswer, GenerateBody, MessageBody, RenderBody
from gateway.api.ops import UnloadBody
from gateway.api.receipts import ReceiptBody
from gateway.auth import PUBLIC_PATHS
from gateway.chat.language import texts_for
from gateway.chat.main import build_parser
from gateway.config import Record
from gateway.engine.__main__ import parser as engine_parser
from gateway.errors import GatewayError
from gateway.main import create_app
from gateway.metrics import TABLE
from gateway.parameters import Parameters
from gateway.scenarios import BUILT_IN
from gateway.settings import Settings
from gateway.switching.vocabulary import Phase, State
from gateway.templates import FAMILIES, SPELLINGS
from gateway.upstream import ENGINES

RECORD_SECTIONS = {
    "Registry": "The file",
    "AliasSpec": "One of `aliases`",
    "ModelSpec": "One of `models`",
    "Limits": "`limits` of a model",
    "Capabilities": "`capabilities` of a model",
    "Timeouts": "`timeouts` of a model",
    "Weights": "`weights` of a model",
    "Probes": "`probes` of a model",
    "Routing": "`routing` of a model",
    "DeviceSpec": "One of `devices`",
    "Switching": "`switching`",
    "ScenarioSpec": "One of `scenarios`",
    "LocalizedText": "A text in two languages",
}

Row = tuple[str, ...]


def section(title: str) -> str:
    """What stands under a heading of the reference, down to the next one of its level."""
    text = text_of(REFERENCE)
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert start, f"docs/REFERENCE.md has no heading {title!r}"
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{len(start[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(title: str) -> list[Row]:
    """All rows of all tables under a heading, without the heads of the tables."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]
    rules = [index for index, row in enumerate(cells) if set("".join(row)) <= set("-: ")]
    heads = {index - 1 for index in rules}
    return [row for index, row in enumerate(cells) if index not in heads and index not in rules]


def columns(title: str, *numbers: int) -> list[Row]:
    return [tuple(row[number] for number in numbers) for row in rows(title)]


def same(title: str, found: Iterable[Row], expected: Iterable[Row]) -> None:
    """Compare rows as sets; the message has the rows to paste."""
    found, expected = list(found), list(expected)
    missing = "\n".join(f"| {' | '.join(row)} |" for row in expected if row not in found)
    extra = "\n".join(f"| {' | '.join(row)} |" for row in found if row not in expected)
    assert not missing, f"docs/REFERENCE.md, {title!r} lacks:\n{missing}"
    assert not extra, f"docs/REFERENCE.md, {title!r} has what the code has not:\n{extra}"
    assert len(found) == len(set(found)), f"docs/REFERENCE.md, {title!r} says something twice"


def code(name: object) -> str:
    return f"`{name}`"


# ---------------------------------------------------------------- tables against the code


def shown(field: FieldInfo) -> str:
    """A field's default, as the tables write it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value in (None, (), {}, ""):
        return "none"
    if isinstance(value, bool):
        return code(str(value).lower())
    return code(f"{value:g}" if isinstance(value, float) else value)


def field_rows(record: type[BaseModel], prefix: str = "", *, upper: bool = False) -> list[Row]:
    named = {prefix + (name.upper() if upper else name): f for name, f in record.model_fields.items()}
    return [(code(name), shown(field), str(field.description)) for name, field in named.items()]


Class = TypeVar("Class")


def below(root: type[Class]) -> Iterator[type[Class]]:
    """All its subclasses, as deep as they go."""
    for child in root.__subclasses__():
        yield child
        yield from below(child)


def test_every_setting_is_in_the_reference() -> None:
    same("Settings", rows("Settings"), field_rows(Settings, "GATEWAY_", upper=True))


def test_every_setting_is_in_the_example_environment() -> None:
    lines = re.findall(r"^(\w+)=(.*)$", text_of(REPOSITORY / ".env.example"), re.MULTILINE)
    wanted = [
        (name.strip("`"), "" if default == "none" else default.strip("`"))
        for name, default, _ in field_rows(Settings, "GATEWAY_", upper=True)
    ]
    assert sorted(lines) == sorted(wanted)


def test_every_kind_of_registry_record_has_a_table() -> None:
    assert {record.__name__ for record in below(Record)} == set(RECORD_SECTIONS)


@pytest.mark.parametrize(("record", "title"), RECORD_SECTIONS.items())
def test_every_registry_key_is_in_the_reference(record: str, title: str) -> None:
    same(title, rows(title), field_rows(getattr(configuration, record)))


def test_the_shipped_registry_shows_every_key() -> None:
    example = text_of(REPOSITORY / "models" / "models.yaml")
    elsewhere = {"command", "name", "en", "zh", "device"}  # local.yaml has the first two and the last
    names = {name for record in below(Record) for name in record.model_fields} - elsewhere
    assert [name for name in sorted(names) if not re.search(rf"\b{name}:", example)] == []


def test_every_family_is_in_the_reference() -> None:
    spellings = {name: [code(s) for s, target in SPELLINGS.items() if target == name] for name in FAMILIES}
    expected = [(code(name), ", ".join(spellings[name]) or "none") for name in FAMILIES]
    same("Families", columns("Families", 0, 1), expected)


def test_every_engine_kind_is_in_the_reference() -> None:
    said = section("Engine kinds")
    assert [kind for kind in ENGINES if code(kind) not in said] == []


def test_every_route_is_in_the_reference() -> None:
    app = create_app(Settings(), cli.load_registry(REPOSITORY / "models" / "local.yaml"))
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    expected = [
        (method, code(route.path.replace(":path}", "}")), "no" if route.path in PUBLIC_PATHS else "yes")
        for route in routes
        for method in route.methods or ()
    ]
    same("Routes", columns("Routes", 0, 1, 2), expected)


@pytest.mark.parametrize(
    ("title", "body", "but"),
    [
        ("Fields of `/v1/generate`", GenerateBody, ()),
        ("Fields of `/v1/render`", RenderBody, GenerateBody.model_fields),
        ("One of `messages`", MessageBody, ()),
        ("Fields of `/v1/models/{model_id}/unload`", UnloadBody, ()),
    ],
)
def test_every_request_field_is_in_the_reference(
    title: str, body: type[BaseModel], but: Iterable[str]
) -> None:
    left_out = {code(name) for name in but}
    same(title, rows(title), [row for row in field_rows(body) if row[0] not in left_out])


def test_every_parameter_is_in_the_reference_with_its_rule() -> None:
    expected = [(code(name), str(field.description)) for name, field in Parameters.model_fields.items()]
    same("Parameters", columns("Parameters", 0, 1), expected)


def test_every_scenario_is_in_the_reference() -> None:
    expected = [
        (code(s.id), s.description["en"], ", ".join(code(f"{k}: {v}") for k, v in s.parameters.items()))
        for s in BUILT_IN
    ]
    same("Scenarios", rows("Scenarios"), expected)


def test_every_answer_field_is_in_the_reference() -> None:
    names = [name for (cell,) in columns("Answers", 0) for name in cell.split(", ")]
    for name in [*GenerateAnswer.model_fields, *ReceiptBody.model_fields]:
        assert code(name) in names
    for state in State:
        assert code(state.value) in section("Answers")


def test_every_stream_event_is_in_the_reference() -> None:
    source = text_of(REPOSITORY / "gateway" / "api" / "native.py")
    written = set(re.findall(r'encode_event\("(\w+)"', source)) | set(get_args(Phase))
    same("Streams", columns("Streams", 0), [(code(name),) for name in sorted(written)])


def all_errors() -> list[type[GatewayError]]:
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return [
        GatewayError,
        *(error for error in below(GatewayError) if error.__module__.startswith("gateway.")),
    ]


def test_every_error_is_in_the_reference() -> None:
    expected: dict[tuple[str, str], set[str]] = {}
    for error in all_errors():
        expected.setdefault((code(error.type), str(error.status)), set()).add(code(error.__name__))
    found = {(kind, status): set(classes.split(", ")) for kind, status, classes, _ in rows("Errors")}
    assert found == expected


def test_every_metric_is_in_the_reference() -> None:
    expected = [
        (
            code(m.name),
            code(m.short),
            m.kind,
            ", ".join(code(label) for label in m.labels) or "none",
            m.help,
        )
        for m in TABLE
    ]
    same("Metrics", rows("Metrics"), expected)


# ---------------------------------------------------------------- commands against the programs


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    actions = [a for a in parser._actions if a.option_strings and a.dest != "help"]
    return {next(o for o in a.option_strings if o.startswith("--")) for a in actions}


def options_in(title: str) -> set[str]:
    return {found for (cell,) in columns(title, 0) for found in re.findall(r"--[\w-]+", cell)}


def test_every_engine_option_is_in_the_reference() -> None:
    assert options_in("`python -m gateway.engine`") == options_of(engine_parser())


def test_every_chat_option_is_in_the_reference() -> None:
    assert options_in("`python examples/chat_cli.py`") == options_of(build_parser(texts_for({})))


def test_every_gateway_command_is_in_the_reference() -> None:
    (commands,) = (a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    found = [cell.strip("`").split()[0] for (cell,) in columns("`python -m gateway`", 0)]
    assert sorted(found) == sorted(commands.choices)


def test_every_supervisor_option_and_route_is_in_the_reference(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        supervisor.parse(["--help"])
    offered = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert {o for (cell, *_) in rows("Supervisor") for o in re.findall(r"`(--[\w-]+)", cell)} == offered
    read = re.findall(r'"(/\w+)": self\._', Path(supervisor.__file__).read_text(encoding="utf-8"))
    routes = {("GET", code(path)) for path in read}
    routes |= {("POST", code(f"/{verb}")) for verb in supervisor.TRANSITIONS}
    assert {(row[0], row[1]) for row in rows("Supervisor") if row[0] in ("GET", "POST")} == routes
