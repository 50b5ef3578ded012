"""The process that owns llama.cpp. It serves on a Unix socket and ends when its standard input does.

Run by path and on its own: standard library and xllamacpp only. One JSON line of configuration comes in on
standard input (nothing is on the command line, which any user of the machine can read), one JSON line goes
out on standard output: ``{"ready": true}`` or ``{"error": "..."}``.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_LIBGOMP = (
    "llama.cpp needs the system library libgomp (OpenMP), which is not installed here; install it with: "
    "apt-get install -y --no-install-recommends libgomp1"
)


def main() -> None:
    config = json.loads(sys.stdin.readline())
    _die_with_parent(signal.SIGKILL)
    try:
        server = serve(config)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        _say({"error": explain(error)})
        os._exit(1)
    _die_with_parent(0)
    _say({"ready": True})
    sys.stdin.read()  # ends when the parent does, however it ends
    # Not an orderly exit: that would join threads which may still be generating for nobody.
    del server
    _remove_socket(Path(config["socket"]))
    os._exit(0)


def serve(config: dict[str, Any]) -> Any:
    """Load the model and listen. Blocks, holding the interpreter lock, until both are done."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = config["model"]
    params.n_parallel = config["slots"]
    # A unified cache is one pool: when it is full, every running request dies. Apart, each slot has its own.
    params.kv_unified = False
    params.n_ctx = config["slots"] * config["context_per_slot"]
    params.cpuparams.n_threads = config["threads"]
    params.cpuparams_batch.n_threads = config["threads"]
    params.cache_ram_mib = 0
    params.ui = False
    params.verbosity = 1  # errors only
    # A path makes the listener a Unix socket: no port, nobody else may connect, no cross-origin question.
    params.hostnames = [config["socket"]]
    return xllamacpp.Server(params)


def explain(error: Exception) -> str:
    if "libgomp" in str(error):
        return _LIBGOMP
    if isinstance(error, ImportError):
        install = "pip install 'unified-llm-gateway[local]'"
        return f"llama.cpp cannot be imported ({error}); install it with: {install}"
    return f"llama.cpp could not load the model: {error}"


def _die_with_parent(number: int) -> None:
    """While the model loads the lock is held and nobody reads standard input: let the kernel see to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _remove_socket(socket: Path) -> None:
    # The parent may be quicker, or the folder hold the socket of the child after this one.
    with contextlib.suppress(OSError):
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()


if __name__ == "__main__":
    main()
