"""The line editor: keys, history that only its owner can read, completion and the toolbar."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import Completer
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output.plain_text import PlainTextOutput

from gateway.chat.console import harmless


class PrivateHistory(FileHistory):
    """A history file with mode 0600 in a folder with mode 0700. Raises OSError when it cannot be had."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
        super().__init__(path)

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError:
            # A disk that filled up meanwhile must not end the conversation; the line stays in memory.
            return


def history_path(environment: Mapping[str, str], home: Path) -> Path:
    state = environment.get("XDG_STATE_HOME") or ""
    # The specification has relative paths ignored.
    base = Path(state) if state.startswith("/") else home / ".local" / "state"
    return base / "unified-llm-gateway" / "chat_history"


def open_history(path: Path, complain: Callable[[str], None]) -> History:
    """The history at ``path``; in memory only, with the reason told, when it cannot be written."""
    try:
        return PrivateHistory(path)
    except OSError as error:
        complain(error.strerror or str(error))
        return InMemoryHistory()


def build_prompt(
    history: History, completer: Completer, toolbar: Callable[[], str], *, moves: bool
) -> PromptSession[str]:
    """``moves`` False is a terminal that cannot rewrite lines: no menu, no toolbar."""

    def shown_toolbar() -> AnyFormattedText:
        return harmless(toolbar())

    # Handed over by the surroundings: an output given to PromptSession itself switches its own simple
    # mode for such terminals off.
    with create_app_session(output=None if moves else PlainTextOutput(sys.stdout)):
        return PromptSession(
            "> ",
            history=history,
            completer=completer,
            complete_while_typing=moves,
            multiline=True,
            prompt_continuation="· ",
            key_bindings=_bindings(),
            bottom_toolbar=shown_toolbar if moves else None,
        )


def _bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings
