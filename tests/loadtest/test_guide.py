"""docs/LOADTEST.md is true: classes, weights, options, variables, commands; both languages alike."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
from pathlib import Path

import pytest
from documents import REPOSITORY, code_blocks, headings, inline_code, text_of

from loadtest.options import parser

GUIDE = REPOSITORY / "docs" / "LOADTEST.md"
CHINESE = REPOSITORY / "docs" / "LOADTEST.zh-CN.md"
BOTH = pytest.mark.parametrize("guide", [GUIDE, CHINESE], ids=lambda path: path.name)


def rows(guide: Path) -> list[list[str]]:
    lines = [line for line in text_of(guide).splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def classes() -> dict[str, str]:
    """Every user class and its weight, read from the files: importing them would patch this process."""
    found = {}
    for path in (REPOSITORY / "loadtest" / "users").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("User") and node.name != "GatewayUser":
                weights = [
                    ast.literal_eval(line.value)
                    for line in node.body
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "weight"
                ]
                found[node.name] = str(weights[0]) if weights else "–"
    return found


@BOTH
def test_every_class_is_in_the_guide_with_its_weight(guide: Path) -> None:
    said = {row[0].strip("`"): row[1] for row in rows(guide) if row[0].endswith("User`")}
    assert said == classes()
    assert sum(int(weight) for weight in said.values() if weight != "–") == 100


@BOTH
def test_every_option_is_in_the_guide(guide: Path) -> None:
    options = {
        option
        for action in parser()._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }
    section = re.split(r"^## (?:Options|选项)$", text_of(guide), flags=re.MULTILINE)[1]
    said = set(re.findall(r"^\| `(--[a-z-]+)`", section, re.MULTILINE))
    assert said == options


def locust_options() -> dict[str, str]:
    """Options of ours and their variables, read from the files that add them."""
    found = {}
    for name in ("hooks.py", "saturation.py"):
        for node in ast.walk(ast.parse((REPOSITORY / "loadtest" / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("add_argument"):
                variable = next(one.value for one in node.keywords if one.arg == "env_var")
                shown = "GATEWAY_API_KEY" if isinstance(variable, ast.Name) else ast.literal_eval(variable)
                found[ast.literal_eval(node.args[0])] = shown
    return found


@BOTH
def test_every_option_of_locust_that_is_ours_is_in_the_guide(guide: Path) -> None:
    section = re.split(r"^## (?:Counts|计数)$", text_of(guide), flags=re.MULTILINE)[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("| `--"))
    for option, variable in locust_options().items():
        assert f"`{option}`" in table
        assert f"`{variable}`" in table


def test_commands_are_ones_that_there_are() -> None:
    blocks = [block for language, block in code_blocks(text_of(GUIDE)) if language == "console"]
    lines = "\n".join(blocks).splitlines()
    ours = [line for line in lines if "-m loadtest" in line]
    assert len(ours) >= 5
    for line in ours:
        parser().parse_args(shlex.split(line)[3:])
    locust = [line for line in lines if "bin/locust" in line]
    assert len(locust) >= 4
    for line in locust:
        file = re.search(r"-f (\S+)", line)
        assert file is not None
        assert (REPOSITORY / file[1]).exists()
        named = re.findall(r"\b\w+User\b", line)
        assert set(named) <= classes().keys()


def test_the_help_shows_commands_that_there_are() -> None:
    shown = [line for line in (parser().epilog or "").splitlines() if "-m loadtest" in line]
    commands = [re.split(r"\s{2,}", line.strip())[0] for line in shown]
    assert len(commands) >= 6
    for command in commands:
        assert isinstance(parser().parse_args(shlex.split(command)[3:]), argparse.Namespace)


def test_both_languages_have_the_same_chapters_code_and_tables() -> None:
    english, chinese = text_of(GUIDE), text_of(CHINESE)
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    assert code_blocks(english) == code_blocks(chinese)
    assert [row[0] for row in rows(GUIDE)] == [row[0].replace("、", ", ") for row in rows(CHINESE)]
    options = {one for one in inline_code(english) if one.startswith("--")}
    assert options == {one for one in inline_code(chinese) if one.startswith("--")}
