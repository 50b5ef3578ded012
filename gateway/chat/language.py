"""Which of the two languages the terminal speaks."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.chat.texts import Texts
from gateway.chat.texts_en import EN
from gateway.chat.texts_zh import ZH


def texts_for(environment: Mapping[str, str]) -> Texts:
    """Chinese where the locale of messages begins with zh: LC_ALL, else LC_MESSAGES, else LANG."""
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if value := environment.get(name):
            return ZH if value.lower().startswith("zh") else EN
    return EN
