"""Run every contender beside the others, in rounds, and write docs/BENCHMARKS.md and its plot."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.overhead import measure, parts, plot, report, results
from benchmarks.overhead.contenders import TGI, Contender, also, contenders
from benchmarks.overhead.measure import Bench, Effort, Row
from benchmarks.overhead.processes import Weighed, free_port, listening, started

DOCS = Path(__file__).parents[2] / "docs"
DIRECT = "no gateway"


def main() -> int:
    options = _options()
    if options.page:
        write_page()
        return 0
    built = parts.prepare(litellm=options.litellm)
    effort = measure.QUICK if options.quick else measure.FULL
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        rows = _measured(built, Path(name), effort, options)
    print(report.table(rows))
    print(report.goals(rows))
    if not options.only and not options.no_page:
        found = {"quick": options.quick, "others": results.others(built), "rows": results.of_rows(rows)}
        results.keep("overhead", found)
        write_page()
    return 0


def write_page() -> None:
    """The page and its plot, from all that is kept."""
    found = results.kept("overhead")
    if found is not None:
        plot.draw(results.rows_of(found["rows"]), DOCS / "img" / "overhead.svg")
    (DOCS / "BENCHMARKS.md").write_text(report.page(), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: about four minutes")
    parser.add_argument(
        "--only", metavar="TEXT;TEXT", help="contenders with one of these in their name; writes no page"
    )
    parser.add_argument("--litellm", action="store_true", help=f"LiteLLM {parts.LITELLM} too, from PyPI")
    parser.add_argument(
        "--also",
        metavar="NAME=ROUTE+URL",
        action="append",
        type=also,
        default=[],
        help="a program of yours that runs already, in front of the source at --source-port, and speaks one "
        "of the routes tgi, chat, native and router; its processor time is taken if it runs on this machine",
    )
    parser.add_argument("--source-port", type=int, default=0, help="where the source is to listen")
    parser.add_argument("--no-page", action="store_true", help="print the tables alone")
    parser.add_argument(
        "--page", action="store_true", help="measure nothing: write the page from what is kept"
    )
    return parser.parse_args()


def _measured(built: parts.Parts, folder: Path, effort: Effort, options: argparse.Namespace) -> list[Row]:
    port = options.source_port or free_port()
    source = f"http://127.0.0.1:{port}"
    direct = Contender(DIRECT, [], port, TGI)
    with ExitStack() as stack:
        weighed = stack.enter_context(
            started([str(built.source), "-port", str(port)], source, folder / "source.log")
        )
        bench = Bench(built.load, weighed, direct, effort)
        chosen = [*contenders(built, source, folder), *options.also]
        if options.only:
            chosen = [one for one in chosen if any(text in one.name for text in options.only.split(";"))]
        runs: list[tuple[Contender, Weighed | None]] = [(direct, None)]
        runs += [(one, stack.enter_context(_running(one, folder))) for one in chosen]
        return _in_rounds(bench, runs)


def _in_rounds(bench: Bench, runs: list[tuple[Contender, Weighed | None]]) -> list[Row]:
    """Everybody once, then everybody once more the other way round, and so on: what else the machine does
    in these minutes hits all alike."""
    rows = {one.name: Row(one.name) for one, _ in runs}
    for number in range(bench.effort.rounds):
        for one, weighed in runs if number % 2 == 0 else reversed(runs):
            print(f"round {number + 1} of {bench.effort.rounds}: {one.name}", file=sys.stderr, flush=True)
            measure.measure(bench, one, weighed, rows[one.name])
    for row in rows.values():
        row.pool()
    return list(rows.values())


@contextmanager
def _running(one: Contender, folder: Path) -> Iterator[Weighed | None]:
    if not one.command:
        yield listening(one.host, one.port)
        return
    with started(
        one.command, f"http://{one.address}{one.health}", folder / f"{one.port}.log", one.env
    ) as weighed:
        yield weighed


if __name__ == "__main__":
    sys.exit(main())
