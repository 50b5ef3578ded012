"""``python -m loadtest``: start what is asked for, let users ask, compare counts, write the report."""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from loadtest import options as command_line
from loadtest.problems import Problem

OK, DISAGREED, PROBLEM = 0, 1, 2
QUICK = {"speed_scale": 4.0, "duration": 30.0, "alone": 8.0, "step": 5.0, "step_users": 60}
QUICK |= {"round": 3.0, "rounds": 9}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command_line.parser()
    options = parser.parse_args(arguments)
    if options.quick:
        for name, value in QUICK.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    try:
        return _done(options)
    except Problem as problem:
        print(problem, file=sys.stderr)
        return PROBLEM
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _done(options: Namespace) -> int:
    folder = options.render or _run(options)
    print(f"Results are in {folder}", file=sys.stderr)
    return _report(folder, options.docs, write=not options.no_report)


def _run(options: Namespace) -> Path:
    # Here: what is not asked for is not imported, and matplotlib takes a second.
    from loadtest import compare, runs

    if options.compare:
        return compare.compared(options)
    return runs.soaked(options) if options.soak else runs.measured(options)


def _report(folder: Path, docs: Path, *, write: bool) -> int:
    from loadtest import results
    from loadtest.report import pages

    found = results.load(folder)
    if write:
        for path in pages.write(found, docs):
            print(f"Wrote {path}", file=sys.stderr)
    for line in pages.verdict(found):
        print(line)
    return OK if found.agreed else DISAGREED


def _told_to_end(*_: object) -> None:
    """As Ctrl-C: what was started is ended, too."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _told_to_end)
    sys.exit(main())
