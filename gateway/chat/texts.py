"""Every sentence of the chat, once for each language: a field here is a sentence that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Texts:
    """``{name}`` is filled by ``str.format``; both languages use the same names in a field."""

    code: str  # of the language, as the gateway's descriptions have it

    # The command line.
    about: str
    arg_prompt: str
    arg_url: str
    arg_model: str
    arg_scenario: str
    arg_system: str
    arg_param: str
    arg_key_file: str
    arg_quiet: str
    key_file_unreadable: str
    key_not_text: str
    prompt_empty: str
    out_unwritable: str
    stdin_not_text: str
    stdin_hint: str

    # Entering, leaving and the lines around the prompt.
    welcome: str
    toolbar: str
    default_model: str
    no_models: str
    interrupt_hint: str
    bye: str
    history_unwritable: str

    # The one line under an answer.
    tokens: str
    rate: str
    ttft: str
    queue: str
    load: str
    cut_by_length: str
    stopped: str

    # Amounts.
    seconds: str
    minutes: str

    # What a waiting request sees.
    waiting_answer: str
    waiting_queued: str
    waiting_position: str
    waiting_draining: str
    waiting_loading: str
    waiting_ready: str
    phases: Mapping[str, str]
    eta: str

    # Failures.
    unreachable: str
    unreachable_hint: str
    timed_out: str
    not_a_gateway: str
    not_a_gateway_hint: str
    lost_before: str
    lost_mid: str
    lost_hint: str
    unauthorized_hint: str
    new_conversation_hint: str
    retry_after: str
    request_id: str

    # Commands.
    unknown_command: str
    did_you_mean: str
    see_help: str
    model_current: str
    model_set: str
    model_cold: str
    model_unknown: str
    model_states: Mapping[str, str]
    models_default: str
    models_memory: str
    models_waiting: str
    models_in_flight: str
    models_last_load: str
    scenario_current: str
    scenario_set: str
    scenario_alone: str
    scenario_chat: str
    scenario_unknown: str
    system_none: str
    system_current: str
    system_set: str
    system_reset: str
    params_none: str
    params_current: str
    params_reset: str
    params_malformed: str
    params_unknown: str
    cleared: str
    retry_nothing: str
    save_usage: str
    save_nothing: str
    save_exists: str
    save_failed: str
    saved: str
    help_head: str
    help_commands: Mapping[str, str]
    help_tail: str

    # The saved conversation.
    export_title: str
    export_you: str
    export_system: str
    export_partial: str
