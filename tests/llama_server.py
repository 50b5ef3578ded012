"""llama.cpp's own server, as somebody else would run it.

``llama_server.py MODEL PORT SLOTS CONTEXT [stay] [TEMPLATE]``: a template takes the place of the model's own.
Ends when its standard input does; with ``stay`` at a signal, as under a supervisor.
"""

import os
import signal
import sys
from pathlib import Path

import xllamacpp


def main() -> None:
    model, port, slots, context, *more = sys.argv[1:]
    stay, template = "stay" in more, [one for one in more if one != "stay"]
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
    if template:
        params.chat_template = Path(template[0]).read_text(encoding="utf-8")
    params.endpoint_slots = True
    params.verbosity = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    if stay:
        signal.pause()
    sys.stdin.read()
    os._exit(0)  # an orderly exit would join threads that may still be generating


main()
