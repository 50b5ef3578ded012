"""Run every contender beside the others and write docs/BENCHMARKS.md and its plot."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.overhead import measure, parts, plot, report
from benchmarks.overhead.contenders import TGI, Contender, contenders
from benchmarks.overhead.measure import Effort, Figures
from benchmarks.overhead.processes import free_port, started

OURS, YARDSTICK = "gateway, TGI route", "FastAPI + httpx"
# About twice what they are: httpx's connections alone would bring both to 1 or more.
MOST_REQUEST, MOST_TOKEN = 0.7, 1.1
DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    options = _options()
    built = parts.prepare()
    if options.check:
        options.quick, options.only = True, f"{OURS};{YARDSTICK}"
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        rows = _measured(built, Path(name), measure.QUICK if options.quick else measure.FULL, options.only)
    print(report.table(rows))
    if options.check:
        return _checked({row.name: row for row in rows})
    if not options.only and not options.no_page:
        plot.draw(rows, DOCS / "img" / "overhead.svg")
        report.write(DOCS / "BENCHMARKS.md", report.page(rows, quick=options.quick))
    return 0


def _checked(rows: Mapping[str, Figures]) -> int:
    """1 when we cost more of what the yardstick costs, in the same run, than can be chance."""
    ours, yardstick = rows[OURS], rows[YARDSTICK]
    request = (ours.cpu_us_per_request or 0) / (yardstick.cpu_us_per_request or 1)
    token = (ours.cpu_us_per_token or 0) / (yardstick.cpu_us_per_token or 1)
    print(f"of what {YARDSTICK} takes: {request:.2f} a request, {token:.2f} a token")
    print(f"at most: {MOST_REQUEST} and {MOST_TOKEN}")
    return int(request > MOST_REQUEST or token > MOST_TOKEN)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter runs: about two minutes in all")
    parser.add_argument(
        "--only", metavar="TEXT;TEXT", help="contenders with one of these in their name; writes no page"
    )
    parser.add_argument("--no-page", action="store_true", help="print the table alone")
    parser.add_argument(
        "--check", action="store_true", help="ours and the yardstick alone; status 1 when ours costs too much"
    )
    return parser.parse_args()


def _measured(built: parts.Parts, folder: Path, effort: Effort, only: str | None) -> list[Figures]:
    port = free_port()
    source = f"http://127.0.0.1:{port}"
    rows: list[Figures] = []
    with started([str(built.source), "-port", str(port)], source, folder / "source.log"):
        if not only:
            direct = Contender("no gateway", [], port, TGI)
            rows.append(measure.figures("no gateway", f"127.0.0.1:{port}", direct, None, built.load, effort))
        for one in contenders(built, source, folder):
            if only and not any(text in one.name for text in only.split(";")):
                continue
            print(one.name, file=sys.stderr, flush=True)
            rows.append(_of(one, built, folder, effort))
    return rows


def _of(one: Contender, built: parts.Parts, folder: Path, effort: Effort) -> Figures:
    log = folder / f"{one.port}.log"
    with started(one.command, f"http://127.0.0.1:{one.port}{one.health}", log, one.env) as weighed:
        return measure.figures(one.name, f"127.0.0.1:{one.port}", one, weighed, built.load, effort)


if __name__ == "__main__":
    sys.exit(main())
