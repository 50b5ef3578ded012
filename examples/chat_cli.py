#!/usr/bin/env python3
"""Chat with the gateway in the terminal: python examples/chat_cli.py --help

Finds the environment that `make setup` made, so that any Python may start it. Everything else is in
gateway/chat.
"""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ENVIRONMENT = REPOSITORY / ".venv"


def run() -> int:
    # An older Python must not even read the package: it would stop at the syntax.
    if sys.version_info < (3, 11):  # noqa: UP036
        return run_in_environment("Python 3.11 or newer")
    sys.path.insert(0, str(REPOSITORY))
    try:
        from gateway.chat.main import main
    except ModuleNotFoundError as error:
        return run_in_environment(str(error.name))
    return main()


def run_in_environment(missing: str) -> int:
    """Start again with the environment's own interpreter; if that is this one, or there is none, say so."""
    python = ENVIRONMENT / "bin" / "python"
    if python.exists() and Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        os.execv(str(python), [str(python), __file__, *sys.argv[1:]])  # noqa: S606
    print(f"chat_cli.py needs {missing}. Run `make setup` in {REPOSITORY} and try again.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(run())
    except KeyboardInterrupt:
        sys.exit(130)
