"""llama.cpp's own server, as somebody else would run it: ``llama_server.py MODEL PORT SLOTS CONTEXT [stay]``.

Ends when its standard input does; with ``stay`` at a signal, as under a supervisor.
"""

import os
import signal
import sys

import xllamacpp


def main() -> None:
    model, port, slots, context, *stay = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_parallel = int(slots)
    params.kv_unified = False
    params.n_ctx = int(slots) * int(context)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    params.cache_ram_mib = 0
    params.ui = False
    params.endpoint_slots = True
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    if stay:
        signal.pause()
    sys.stdin.read()
    os._exit(0)  # an orderly exit would join threads that may still be generating


main()
