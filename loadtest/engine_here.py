"""The engine of this tree, whatever the folder: ``python loadtest/engine_here.py --backend echo --port 0``

In a comparison of two commits both gateways get the same engines: what differs is the gateway. (``python -m
gateway.engine`` would take the one of the folder that the gateway runs in.)
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

# In place of this script's own folder, whose modules are named like packages that others import.
sys.path[0] = str(Path(__file__).resolve().parents[1])
runpy.run_module("gateway.engine", run_name="__main__", alter_sys=True)
