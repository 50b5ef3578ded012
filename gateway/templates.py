"""From a conversation to the prompt text of a model family. Pure.

The text is, byte for byte, what the model owner's own chat template renders with an empty BOS token:
engines add BOS themselves when they tokenise. The tests render those templates with Jinja2 and compare;
at run time there is no template engine.

**Typed special tokens.** To a tokenizer, ``<|im_end|>`` in a user's text is the same token as the one the
template writes, so whoever types it could end the turn and speak for the assistant. Unless
``allow_special_tokens`` is set, every special token of the family that occurs in a content (or a template
argument) gets a ZERO WIDTH SPACE (U+200B) after its ``<``. It reads the same to a person and almost the same
to the model, but no tokenizer matches it. Why that is enough:

* a special token has its only ``<`` at its start, so two of them never overlap and one pass finds all;
* characters are only put in, never taken out, so nothing closes up as in ``<|im_<|im_end|>end|>``;
* no token contains white space, so trimming neither makes nor breaks one;
* contents begin after a newline and end before a ``<`` of the template: none forms across that border.

A family for which one of these does not hold needs another way; the tests check every entry of ``FAMILIES``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from gateway.errors import InvalidRequest
from gateway.schemas import Conversation, Message, Prompt

ZERO_WIDTH_SPACE = "\u200b"

Turns = Callable[[Sequence[Message], Mapping[str, str]], str]


@dataclass(frozen=True, slots=True)
class Family:
    """Models that share a prompt format.

    ``turns`` renders one message or more, the last turn closed with ``turn_end`` and no generation prompt
    after it; its second argument holds only names from ``template_args``.
    """

    name: str
    turns: Turns
    turn_end: str
    generation_prompt: str
    stop: tuple[str, ...]
    special_tokens: re.Pattern[str]
    template_args: tuple[str, ...] = ()


def family(name: str) -> Family:
    """Raises ValueError, naming the known families, when there is none of that name or spelling."""
    found = FAMILIES.get(SPELLINGS.get(name, name))
    if found is None:
        raise ValueError(f"no model family {name!r}; known are {', '.join(FAMILIES)}")
    return found


def render(
    family: Family,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    allow_special_tokens: bool = False,
    template_args: Mapping[str, str] | None = None,
) -> Prompt:
    """The prompt of ``messages``, and the strings that end a turn in this family.

    With ``continue_final_message`` the last message, which must be the assistant's, is left open right after
    its content as the template prints it, so that the model goes on writing it; ``add_generation_prompt`` is
    then ignored. A template that trims contents (Llama 3.1) trims this one too; the others keep white space
    at its end, where TGI's own chat route would remove it.

    Raises InvalidRequest, naming the field, when there are no messages, when a template argument is not one
    of the family's, and when there is no final assistant message to continue.
    """
    args = dict(template_args or {})
    _check(family, messages, args, continue_final_message)
    if not allow_special_tokens:
        messages = [Message(m.role, neutralised(family, m.content)[0]) for m in messages]
        args = {name: neutralised(family, value)[0] for name, value in args.items()}
    text = family.turns(messages, args)
    if continue_final_message:
        text = text.removesuffix(family.turn_end)
    elif add_generation_prompt:
        text += family.generation_prompt
    return Prompt(text=text, stop=family.stop)


def harmless(family: Family, conversation: Conversation) -> Conversation:
    """``conversation`` with the special tokens in what was said, by whomever, made harmless."""

    def spoken(text: str) -> str:
        return neutralised(family, text)[0]

    turns = tuple(
        replace(
            turn,
            content=spoken(turn.content),
            tool_calls=tuple(replace(one, arguments=spoken(one.arguments)) for one in turn.tool_calls),
        )
        for turn in conversation.turns
    )
    return replace(conversation, turns=turns)


def neutralised(family: Family, text: str) -> tuple[str, int]:
    """``text`` with the family's special tokens made harmless, and how many there were."""
    return family.special_tokens.subn(_split, text)


def _split(token: re.Match[str]) -> str:
    return "<" + ZERO_WIDTH_SPACE + token[0][1:]


def _check(family: Family, messages: Sequence[Message], args: Mapping[str, str], continues: bool) -> None:
    if not messages:
        raise InvalidRequest(
            "There are no messages to render.", field="messages", hint="Send at least one message."
        )
    for name in args:
        if name not in family.template_args:
            allowed = ", ".join(family.template_args) or "none"
            raise InvalidRequest(
                f"The template of family {family.name} has no argument `{name}`.",
                field=f"template_args.{name}",
                hint=f"Allowed for this family: {allowed}.",
            )
    if continues and messages[-1].role != "assistant":
        raise InvalidRequest(
            f"Only an assistant message can be continued, and the last one is from `{messages[-1].role}`.",
            field=f"messages.{len(messages) - 1}.role",
            hint="End with an assistant message, or leave continue_final_message out.",
        )


def _chatml_turns(
    messages: Sequence[Message], args: Mapping[str, str], *, default_system: str | None = None
) -> str:
    if default_system is not None and messages[0].role != "system":
        messages = [Message("system", default_system), *messages]
    return "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)


def _llama3_turns(messages: Sequence[Message], args: Mapping[str, str]) -> str:
    # The dates stand in front of what a first system message says, and also where there is none.
    today = args.get("date_string", "26 Jul 2024")
    system = f"Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n"
    if messages[0].role == "system":
        system += messages[0].content.strip()
        messages = messages[1:]
    return _llama3_turn("system", system) + "".join(_llama3_turn(m.role, m.content.strip()) for m in messages)


def _llama3_turn(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>"


def _any_of(tokens: Iterable[str], *patterns: str) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, tokens), *patterns]))


_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

_SMOLLM2_TOKENS = (
    *_CHATML_TOKENS,
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
)

_LLAMA3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)

_CHATML = Family(
    name="chatml",
    turns=_chatml_turns,
    turn_end="<|im_end|>\n",
    generation_prompt="<|im_start|>assistant\n",
    stop=("<|im_end|>",),
    special_tokens=_any_of(_CHATML_TOKENS),
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "qwen2": replace(
            _CHATML,
            name="qwen2",
            turns=partial(_chatml_turns, default_system="You are a helpful assistant."),
        ),
        "llama3": Family(
            name="llama3",
            turns=_llama3_turns,
            turn_end="<|eot_id|>",
            generation_prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
            stop=("<|eot_id|>",),
            special_tokens=_any_of(_LLAMA3_TOKENS, r"<\|reserved_special_token_[0-9]+\|>"),
            template_args=("date_string",),
        ),
        "chatml": _CHATML,
        "smollm2": replace(
            _CHATML,
            name="smollm2",
            turns=partial(
                _chatml_turns,
                default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
            ),
            special_tokens=_any_of(_SMOLLM2_TOKENS),
        ),
    }
)

SPELLINGS: Mapping[str, str] = MappingProxyType({"llama3.1": "llama3", "llama-3.1": "llama3"})
