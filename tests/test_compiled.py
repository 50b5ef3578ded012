"""Which code runs: the sources, or what was compiled of them; and what is done when the two differ."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import compiled
from scripts.native_records import native

ROOT = Path(__file__).parents[1]


def stamp(folder: Path, **other: object) -> Path:
    """What a build would have left: a stamp of these very sources, and one module that says who it is."""
    folder.mkdir()
    module = folder / "part.py"
    module.write_text("WHERE = 'compiled'\n", encoding="utf-8")
    said = {
        "suffix": compiled.SUFFIX,
        "sources": dict(compiled.sources()),
        "modules": {"gateway.records": module.name, "gateway_compiled__mypyc": module.name},
    }
    (folder / compiled.STAMP).write_text(json.dumps({**said, **other}), encoding="utf-8")
    return folder


def run(code: str, folder: str | Path) -> str:
    """What ``code`` prints in a process that was told to take compiled modules from ``folder``."""
    env = {**os.environ, compiled.VARIABLE: str(folder)}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SAY = "import gateway; print(gateway.CODE, '|', gateway.CODE.why_not)"


def test_modules_are_taken_while_every_source_is_the_same(tmp_path: Path) -> None:
    folder = stamp(tmp_path / "built")
    assert run(SAY, folder) == "compiled, 1 modules | None"
    assert run("from gateway import records; print(records.WHERE)", folder) == "compiled"


def test_off_runs_the_sources_whatever_was_compiled() -> None:
    assert run(SAY, "off") == "interpreted | None"


def test_a_source_that_changed_is_run_as_it_is_and_named(tmp_path: Path) -> None:
    sources = {**dict(compiled.sources()), "records.py": "another digest"}
    folder = stamp(tmp_path / "built", sources=sources)
    assert run(SAY, folder) == "interpreted | gateway/records.py has changed since"
    assert run("from gateway import records; print(hasattr(records, 'WHERE'))", folder) == "False"


@pytest.mark.parametrize("gone", [True, False], ids=["a source is gone", "there is a new one"])
def test_files_that_came_or_went_count_as_changes(tmp_path: Path, gone: bool) -> None:
    sources = dict(compiled.sources())
    if gone:
        sources["once.py"] = "a digest"
    else:
        del sources["errors.py"]
    folder = stamp(tmp_path / "built", sources=sources)
    assert run(SAY, folder).startswith("interpreted | gateway/")


def test_another_python_does_not_take_them(tmp_path: Path) -> None:
    folder = stamp(tmp_path / "built", suffix=".cpython-39-any.so")
    assert "compiled for another Python" in run(SAY, folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suffix": 3}', '{"modules": []}'])
def test_a_stamp_that_cannot_be_read_is_no_reason_not_to_start(tmp_path: Path, text: str) -> None:
    (tmp_path / compiled.STAMP).write_text(text, encoding="utf-8")
    assert run(SAY, tmp_path).startswith("interpreted | ")


def test_a_folder_that_is_not_there_is_said_only_where_it_was_named(tmp_path: Path) -> None:
    assert "there is no" in run(SAY, tmp_path / "nowhere")


def test_a_module_that_was_deleted_is_noticed_before_any_other_is_taken(tmp_path: Path) -> None:
    folder = stamp(tmp_path / "built")
    (folder / "part.py").unlink()
    assert run(SAY, folder) == "interpreted | part.py is gone"


def test_version_says_whose_code_runs() -> None:
    command = [sys.executable, "-m", "gateway", "--version"]
    env = {**os.environ, compiled.VARIABLE: "off"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("(interpreted)")


def test_chat_engine_and_supervisor_do_not_make_it_stale() -> None:
    names = [name for name, _ in compiled.sources()]
    assert "fastpath/passage.py" in names
    assert not any(name.startswith(compiled.APART) for name in names)


RECORD = '''
from dataclasses import field
from gateway.records import record


@record
class Place:
    """Where."""

    name: str
    near: tuple[str, ...] = ()
    secret: str | None = field(default=None, repr=False)
    notes: dict[str, str] = field(default_factory=dict)

    def shout(self) -> str:
        return self.name.upper()
'''


def made(source: str) -> dict[str, object]:
    space: dict[str, object] = {"__name__": "tests.made"}
    exec(compile(source, "made", "exec", dont_inherit=True), space)  # noqa: S102  our own text
    return space


def test_native_records_are_the_same_to_whoever_uses_them() -> None:
    ordinary: Any = made(RECORD)["Place"]
    other: Any = made(native(RECORD))["Place"]
    for kind in (ordinary, other):
        place = kind("here", secret="no")
        assert (place.near, place.notes, place.shout()) == ((), {}, "HERE")
        assert place.notes is not kind("here").notes
        assert place == kind("here", (), "no") != kind("there")
        assert replace(place, name="there").name == "there"
        assert "secret" not in repr(place)
        with pytest.raises(TypeError):
            kind()


def test_native_records_change_no_lines() -> None:
    lines, changed = RECORD.splitlines(), native(RECORD).splitlines()
    assert len(lines) == len(changed)
    assert changed[lines.index("    def shout(self) -> str:")] == "    def shout(self) -> str:"


def test_a_record_without_a_line_to_write_on_is_refused() -> None:
    with pytest.raises(ValueError, match="empty line"):
        native(RECORD.replace('"""Where."""\n\n', '"""Where."""\n'))


def test_without_a_compiler_it_is_said_what_to_install(tmp_path: Path) -> None:
    env = {**os.environ, "CC": "no-such-compiler"}
    command = [sys.executable, "scripts/compile.py", tmp_path / "built"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert "no-such-compiler" in done.stderr
    assert "apt-get install" in done.stderr
    assert not (tmp_path / "built").exists()


# ------------------------------------------------------------ the lane

SUITES = (
    "tests/fastpath",
    "tests/server_wire",
    "tests/upstream/test_push.py",
    "tests/upstream/test_transport_*.py",
    "tests/upstream/test_tgi*.py",
    "tests/test_scheduler*.py",
    "tests/test_connections.py",
    "tests/test_workers_parts.py",
)
# test_taken puts a subclass into the place of a class, which cannot be where that is compiled.
# What comes byte by byte is cut at every byte elsewhere, and takes a minute.
LEFT_OUT = ("--ignore-glob=*/server_wire/test_taken.py", "-k", "not byte_by_byte")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules of these sources, compiled; or those of ``make compile``, where they still fit."""
    files, _ = compiled.found(compiled.USUAL)
    if files:
        return compiled.USUAL
    folder = tmp_path_factory.mktemp("compiled") / "built"
    command = [sys.executable, "scripts/compile.py", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.compiled
@pytest.mark.timeout(1800)
def test_compiled_modules_behave_like_their_sources(built: Path) -> None:
    paths = [str(path) for pattern in SUITES for path in sorted(ROOT.glob(pattern))]
    command = [sys.executable, "-m", "pytest", "-n", "3", "--dist", "loadfile", *LEFT_OUT, *paths]
    env = {**os.environ, compiled.VARIABLE: str(built)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "gateway: compiled, " in done.stdout


@pytest.mark.compiled
@pytest.mark.timeout(600)
def test_compiled_modules_need_nothing_of_the_compiler(built: Path) -> None:
    """An environment without mypy runs them."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('mypy', 'mypyc', 'librt', 'mypy_extensions')))\n"
        "import gateway, gateway.main, gateway.connections\n"
        "print(gateway.CODE, gateway.connections.__file__)"
    )
    said = run(code, built)
    assert said.startswith("compiled, ")
    assert said.endswith(compiled.SUFFIX)


@pytest.mark.compiled
def test_spare_copy_of_the_folder_works_anywhere(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built, tmp_path / "elsewhere")
    assert run(SAY, tmp_path / "elsewhere").startswith("compiled, ")
