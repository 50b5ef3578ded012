"""All kinds of users. ``locust -f loadtest/locustfile.py --host http://127.0.0.1:8000``

Name classes on the command line to have only those: ``… StreamUser ChatUser``. A key goes into the
environment as ``GATEWAY_API_KEY``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from locust import events

# Locust puts the current folder into the path; this one finds its own parts from everywhere.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from loadtest.hooks import install
from loadtest.users.alternating import AlternatingUser
from loadtest.users.chat import ChatUser
from loadtest.users.impatient import ImpatientUser
from loadtest.users.openai_client import OpenAIUser
from loadtest.users.seed import SeedUser
from loadtest.users.stream import StreamUser

__all__ = ["AlternatingUser", "ChatUser", "ImpatientUser", "OpenAIUser", "SeedUser", "StreamUser"]

install(events)
