"""Two sides in turn, in one run: A B, B A, A B, … so that what the machine does meanwhile meets both alike.

Every side of every round is a stand of its own. A side is a model's id, a setting (``GATEWAY_X=1``), or a
commit, which is checked out into a temporary folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loadtest import machine, results
from loadtest.parts import Part
from loadtest.problems import Problem
from loadtest.runs import attended, conduct_of, setup_of
from loadtest.speeds import CALIBRATED
from loadtest.stand import REPOSITORY, Setup, Stand

USERS = {"calibrated": 40, "small": 4}
_SETTING = re.compile(r"^(GATEWAY_[A-Z_]+)=(.*)$")
SMALL = ("smollm2", "smollm2-q8")
Letter = Literal["A", "B"]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. ``kind``: model, setting or commit."""

    letter: Letter
    said: str
    kind: str
    model: str
    settings: dict[str, str] = field(default_factory=dict)
    tree: Path = REPOSITORY


def compared(options: Namespace) -> Path:
    """All rounds, one after the other. The folder of the results. Raises Problem."""
    if options.url:
        raise Problem("--compare starts its own gateways; it cannot be had with --url.")
    folder: Path = options.run_dir / f"{time.strftime('%Y%m%d-%H%M%S')}-compare"
    folder.mkdir(parents=True, exist_ok=True)
    users = options.users or USERS[options.engine]
    with _sides(options) as sides:
        head: dict[str, Any] = {
            "kind": "compare",
            "options": {**_plain(options), "users": users},
            "machine": machine.describe(),
            "began": time.time(),
            "sides": [{"letter": s.letter, "said": s.said, "kind": s.kind} for s in sides],
            "stands": [],
        }
        for number, side in enumerate(order(sides, options.rounds), 1):
            said = f"Round {(number + 1) // 2} of {options.rounds}: {side.letter} ({side.said})"
            print(said, file=sys.stderr, flush=True)
            stand = _round(options, side, users, folder, f"{number:02}-{side.letter}")
            head["stands"].append({**stand, "side": side.letter, "pair": (number + 1) // 2})
    head["ended"] = time.time()
    head["load_at_the_end"] = machine.describe()["load"]
    results.save(folder, head)
    return folder


def _plain(options: Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}


def order(sides: tuple[Side, Side], rounds: int) -> list[Side]:
    """A B, B A, A B, …: neither always comes first."""
    first, second = sides
    return [side for k in range(rounds) for side in ((first, second) if k % 2 == 0 else (second, first))]


def _round(options: Namespace, side: Side, users: int, folder: Path, name: str) -> dict[str, Any]:
    setup: Setup = setup_of(options, only=(side.model,), load=False, tree=side.tree)
    setup = setup_of(
        options,
        only=(side.model,),
        load=False,
        tree=side.tree,
        settings={**setup.settings, **side.settings},
    )

    def plan(stand: Stand) -> list[Part]:
        classes = ("SeedUser", "StreamUser")
        return [Part(f"{side.letter} {side.said}"[:12], options.round, users, classes=classes)]

    return attended(setup, plan, conduct_of(options), folder, name)


@contextmanager
def _sides(options: Namespace) -> Iterator[tuple[Side, Side]]:
    """What both words mean. Commits stay checked out for as long as the block runs."""
    known = tuple(CALIBRATED) if options.engine == "calibrated" else SMALL
    with tempfile.TemporaryDirectory(prefix="loadtest-") as name:
        trees: list[Path] = []
        try:
            first = _side("A", options.compare[0], known, Path(name), trees)
            second = _side("B", options.compare[1], known, Path(name), trees)
            if first.kind != second.kind:
                raise Problem(f"{first.said} is a {first.kind}, and {second.said} a {second.kind}.")
            yield first, second
        finally:
            for tree in trees:
                subprocess.run(
                    ["git", "worktree", "remove", "--force", str(tree)], cwd=REPOSITORY, check=False
                )


def _side(letter: Letter, said: str, known: tuple[str, ...], folder: Path, trees: list[Path]) -> Side:
    if said in known:
        return Side(letter, said, "model", said)
    if (setting := _SETTING.match(said)) is not None:
        return Side(letter, said, "setting", known[0], {setting[1]: setting[2]})
    tree = folder / letter
    made = subprocess.run(
        ["git", "worktree", "add", "--detach", str(tree), said],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise Problem(
            f"{said!r} is no model ({', '.join(known)}), no setting (GATEWAY_NAME=VALUE) and no commit: "
            + (made.stderr.strip().splitlines() or ["git says nothing"])[-1]
        )
    trees.append(tree)
    return Side(letter, said, "commit", known[0], tree=tree)
