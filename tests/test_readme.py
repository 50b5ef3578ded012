"""The documents are true: commands against the programs, links against the files, English against Chinese."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from documents import (
    CHINESE,
    ENGLISH,
    EVERY_DOCUMENT,
    REPOSITORY,
    code_blocks,
    headings,
    inline_code,
    text_of,
    without_code,
)
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import Match

import gateway
from gateway import cli
from gateway.api.native import GenerateAnswer, GenerateBody, RenderBody
from gateway.api.openai_bodies import ChatBody
from gateway.engine import wheel
from gateway.main import create_app
from gateway.scenarios import BUILT_IN
from gateway.settings import Settings

LOCAL = cli.load_registry(REPOSITORY / "models" / "local.yaml")


@EVERY_DOCUMENT
def test_make_targets_that_are_named_exist(document: Path) -> None:
    makefile = text_of(REPOSITORY / "Makefile")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = text_of(document)
    commands = [
        *inline_code(text),
        *(block for language, block in code_blocks(text) if language == "console"),
    ]
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(commands))) <= targets


@dataclass(frozen=True, slots=True)
class Curl:
    """One curl command as a request."""

    method: str
    path: str
    body: str | None

    @classmethod
    def of(cls, line: str) -> Curl:
        words = shlex.split(line)
        address = next(word for word in words if word.startswith("http://"))
        body = words[words.index("-d") + 1] if "-d" in words else None
        return cls("POST" if body or "-X" in words else "GET", urlsplit(address).path, body)


def curls(document: Path) -> list[Curl]:
    lines = [line for _, block in code_blocks(text_of(document)) for line in block.splitlines()]
    return [Curl.of(line) for line in lines if line.startswith("curl ")]


BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/generate": GenerateBody,
    "/v1/render": RenderBody,
    "/v1/chat/completions": ChatBody,
}


def test_requests_in_the_readme_have_routes() -> None:
    app = create_app(Settings(), LOCAL)
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    for curl in curls(ENGLISH):
        scope = {"type": "http", "method": curl.method, "path": curl.path}
        assert any(route.matches(scope)[0] is Match.FULL for route in routes), curl


def test_request_bodies_in_the_readme_are_valid() -> None:
    bodies = [(curl.path, curl.body) for curl in curls(ENGLISH) if curl.body is not None]
    assert len(bodies) >= 5
    for path, body in bodies:
        if json.loads(body).get("parameters") == {"temperature": 0}:
            continue  # shows what a mistake is answered with
        BODIES[path].model_validate_json(body)


def test_requests_in_the_readme_name_models_and_scenarios_that_make_up_has() -> None:
    scenarios = {scenario.id for scenario in BUILT_IN}
    for body in (json.loads(curl.body) for curl in curls(ENGLISH) if curl.body is not None):
        model = body.get("model_id", body.get("model"))
        assert model is None or LOCAL.resolve(model), body
        assert body.get("scenario", "general") in scenarios, body


def test_answers_in_the_readme_have_the_fields_of_answers() -> None:
    answers = [json.loads(body) for language, body in code_blocks(text_of(ENGLISH)) if language == "json"]
    generated = [answer for answer in answers if "generated_text" in answer]
    assert generated
    for answer in generated:
        GenerateAnswer.model_validate(answer)


def test_registry_files_that_the_readme_starts_with_are_valid() -> None:
    named = set(re.findall(r"models/[\w-]+\.yaml", text_of(ENGLISH)))
    assert len(named) >= 2
    for name in named:
        assert cli.load_registry(REPOSITORY / name).models


# ---------------------------------------------------------------- links, languages, places


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", without_code(text))


def anchors(document: Path) -> set[str]:
    titles = [re.sub(r"[^\w\- ]", "", title.lower()) for _, title in headings(text_of(document))]
    return {title.replace(" ", "-") for title in titles}


@EVERY_DOCUMENT
def test_relative_links_lead_somewhere(document: Path) -> None:
    for link in links(text_of(document)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {link} leads nowhere"
        assert target.is_relative_to(REPOSITORY), f"{document.name}: {link} leaves the repository"
        assert not anchor or anchor in anchors(target), f"{document.name}: {link} has no such heading"


@EVERY_DOCUMENT
def test_no_document_names_a_place_on_somebodys_machine(document: Path) -> None:
    # /var/lib/gateway is inside the image, wherever that runs.
    places = r"(?<![\w.:/])/(?:work|root|home|Users|tmp|mnt|opt|var(?!/lib/gateway))/[\w.]*"
    assert re.findall(places, text_of(document)) == []


def test_both_readmes_have_the_same_headings() -> None:
    levels = [[level for level, _ in headings(text_of(path))] for path in (ENGLISH, CHINESE)]
    assert levels[0] == levels[1]


def test_both_readmes_have_the_same_code() -> None:
    assert code_blocks(text_of(ENGLISH)) == code_blocks(text_of(CHINESE))


def test_both_readmes_have_the_same_links() -> None:
    english, chinese = links(text_of(ENGLISH)), links(text_of(CHINESE))
    assert "README.zh-CN.md" in english
    assert "README.md" in chinese
    assert sorted(link.replace(".zh-CN", "") for link in chinese) == sorted(
        link.replace(".zh-CN", "") for link in english
    )


def test_both_drawings_differ_in_their_words_alone() -> None:
    drawings = sorted((REPOSITORY / "docs" / "img").glob("architecture*.svg"))
    assert len(drawings) == 2
    wordless = {re.sub(r">[^<{}]+<", "><", text_of(drawing)) for drawing in drawings}
    assert len(wordless) == 1


def test_the_changelog_has_this_version() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", text_of(REPOSITORY / "CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == gateway.__version__


def test_what_is_fetched_is_in_the_notice() -> None:
    notice = text_of(REPOSITORY / "NOTICE")
    digests = [value for value in vars(wheel).values() if re.fullmatch(r"[0-9a-f]{64}", str(value))]
    assert digests
    assert [digest for digest in digests if digest in notice]
