"""A whole run: which stands with which parts, in which order, and what is kept of it."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtest import agreement, knee, machine, results
from loadtest.pages import Page
from loadtest.parts import Conduct, Part, PartResult, run
from loadtest.problems import Problem
from loadtest.stand import Setup, Stand, open_stand

HELD_S = 75.0
USERS = {"calibrated": 100, "small": 4}


def conduct_of(options: Namespace) -> Conduct:
    return Conduct(options.seed, options.wait_s, options.sample_s, options.processes, options.statsd)


def setup_of(options: Namespace, **changes: Any) -> Setup:
    settings = {}
    if options.statsd:
        host, _, port = options.statsd.partition(":")
        settings = {"GATEWAY_STATSD_HOST": host, "GATEWAY_STATSD_PORT": port or "8125"}
    given: dict[str, Any] = {
        "engine": options.engine,
        "url": options.url,
        "port": options.port,
        "speed_scale": options.speed_scale,
        "settings": settings,
    }
    return Setup(**{**given, **changes})


def users_of(options: Namespace) -> int:
    return int(options.users or USERS[options.engine])


def new_folder(options: Namespace, kind: str) -> Path:
    folder: Path = options.run_dir / f"{time.strftime('%Y%m%d-%H%M%S')}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measured(options: Namespace) -> Path:
    """The run with all users, then what else was asked for. The folder of its results. Raises Problem."""
    if options.saturation and options.url:
        raise Problem("--saturation needs a gateway of its own: its limits are set for it.")
    folder = new_folder(options, "run")
    head = _head("run", options)
    head["stands"].append(_with_all_users(options, folder))
    if options.saturation:
        head["stands"].append(_saturated(options, folder))
    return _saved(folder, head)


def soaked(options: Namespace) -> Path:
    """One long run with all users. Raises Problem."""
    folder = new_folder(options, "soak")
    head = _head("soak", options)
    part = Part("soak", options.soak, users_of(options), models=options.models)

    def plan(stand: Stand) -> list[Part]:
        return [part]

    head["stands"].append(attended(setup_of(options), plan, conduct_of(options), folder, "soak"))
    return _saved(folder, head)


def _head(kind: str, options: Namespace) -> dict[str, Any]:
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    said["users"] = users_of(options)
    return {"kind": kind, "options": said, "machine": machine.describe(), "began": time.time(), "stands": []}


def _saved(folder: Path, head: dict[str, Any]) -> Path:
    head["ended"] = time.time()
    head["load_at_the_end"] = machine.describe()["load"]
    results.save(folder, head)
    return folder


def _with_all_users(options: Namespace, folder: Path) -> dict[str, Any]:
    users = users_of(options)

    def plan(stand: Stand) -> list[Part]:
        parts = [Part("all", options.duration, users, models=options.models)]
        if not options.no_alone:
            names = [name.partition("=")[0] for name in options.models.split(",") if name]
            parts += [_alone(options, model) for model in names or [row["id"] for row in stand.models]]
        return parts

    return attended(setup_of(options), plan, conduct_of(options), folder, "all")


def _alone(options: Namespace, model: str) -> Part:
    return Part(f"alone-{model}", options.alone, users_of(options), classes=("SeedUser",), models=model)


Plan = Callable[[Stand], Sequence[Part]]


def attended(setup: Setup, plan: Plan, conduct: Conduct, folder: Path, name: str) -> dict[str, Any]:
    """Run the parts of a plan on one stand, and compare what everybody counted. Raises Problem."""
    said = f"Starting {setup.url or f'a gateway with {setup.engine} engines'}"
    print(said, file=sys.stderr, flush=True)
    with open_stand(setup, folder / name) as stand:
        parts = []
        for part in plan(stand):
            if part.name.startswith("alone-"):
                stand.bring_in(part.models)
            parts.append(run(part, stand, conduct, folder / name / part.name))
        stand.await_idle()
        page = stand.page()
    return closed(stand, parts, page, name)


def closed(stand: Stand, parts: Sequence[PartResult], page: Page, name: str) -> dict[str, Any]:
    """What is kept of a stand that has ended: its engines' last counts are there only now."""
    records = [record for part in parts for record in part.records]
    counted = agreement.Counted(
        [part.locust for part in parts],
        agreement.grown(page, stand.baseline),
        stand.engine_counts(),
        stand.logged(),
    )
    checks = agreement.check(records, counted)
    return {
        "name": name,
        "models": [
            {"id": row["id"], "name": row.get("name"), "limits": row["limits"]} for row in stand.models
        ],
        "checks": [check.as_json() for check in checks],
        "engine_s": _engine_seconds(counted.engines),
        "switches": agreement.grown(page, stand.baseline).by("gateway_switches_total", "model"),
        "lost_s": agreement.grown(page, stand.baseline).by("gateway_switch_lost_seconds_total", "model"),
        "parts": [{**part.as_json(), "folder": f"{name}/{part.part.name}"} for part in parts],
    }


def _engine_seconds(engines: Mapping[str, Page] | None) -> dict[str, list[float]]:
    """What engines say of their answers: how many, and how many seconds they took together."""
    return {
        model: [page.sum("tgi_request_duration_count"), page.sum("tgi_request_duration_sum")]
        for model, page in (engines or {}).items()
    }


def _saturated(options: Namespace, folder: Path) -> dict[str, Any]:
    """A ramp, its knee for a while, and twice that. One model: a switch would hide what is looked for."""
    conduct = conduct_of(options)
    setup = setup_of(options, limits={"max_queue": options.max_queue})
    name = "saturation"
    with open_stand(setup, folder / name) as stand:
        model = stand.models[0]["id"]
        parts = [run(_ramp(options, model), stand, conduct, folder / name / "ramp")]
        found = knee.steps(parts[0].records, parts[0].began, options.step, options.step_users)
        if not found:
            raise Problem("The ramp brought no answers; its log is in " + str(folder / name / "ramp"))
        for what, users in (("knee", knee.knee(found).users), ("twice", 2 * knee.knee(found).users)):
            part = Part(
                what,
                _held_s(options),
                users,
                locustfile="saturating.py",
                models=model,
                options=("--pace-s", f"{knee.PACE_S:g}"),
            )
            parts.append(run(part, stand, conduct, folder / name / what))
        stand.await_idle()
        page = stand.page()
    return closed(stand, parts, page, name)


def _held_s(options: Namespace) -> float:
    return float(max(options.step, 24.0 if options.quick else HELD_S))


def _ramp(options: Namespace, model: str) -> Part:
    told = ["--pace-s", f"{knee.PACE_S:g}", "--step-s", f"{options.step:g}"]
    told += ["--steps", str(options.steps), "--step-users", str(options.step_users)]
    return Part(
        "ramp",
        options.step * options.steps,
        None,
        locustfile="saturation.py",
        models=model,
        options=tuple(told),
    )
