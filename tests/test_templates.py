"""Our prompts against what the model owners published, and against people who type special tokens.

The published templates (tests/reference) are rendered with Jinja2 the way transformers does it: sandboxed,
with ``trim_blocks`` and ``lstrip_blocks``. Without those two the prompts are the same, which is tested too.
"""

import hashlib
import re
import sys
from dataclasses import FrozenInstanceError
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.errors import InvalidRequest
from gateway.schemas import Message, Role
from gateway.templates import FAMILIES, SPELLINGS, ZERO_WIDTH_SPACE, family, neutralised, render

REFERENCE = Path(__file__).parent / "reference"
PUBLISHED = {
    "qwen2": "qwen2-7b-instruct.jinja",
    "llama3": "llama-3.1-8b-instruct.jinja",
    "smollm2": "smollm2-135m-instruct.jinja",
}
# Plain ChatML belongs to no one model: the form that all its dialects share, and no default system turn.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
# Written out here again, so that a token lost from the code's list is missed by somebody.
SMOLLM2_TOKENS = """
<repo_name> <reponame> <file_sep> <filename> <gh_stars> <issue_start> <issue_comment> <issue_closed>
<jupyter_start> <jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>
"""
LLAMA3_TOKENS = """
<|begin_of_text|> <|end_of_text|> <|finetune_right_pad_id|> <|eom_id|> <|eot_id|>
<|start_header_id|> <|end_header_id|> <|python_tag|>
"""
TOKENS = {
    "qwen2": CHATML_TOKENS,
    "chatml": CHATML_TOKENS,
    "smollm2": CHATML_TOKENS + SMOLLM2_TOKENS.split(),
    "llama3": LLAMA3_TOKENS.split() + [f"<|reserved_special_token_{n}|>" for n in range(248)],
}
ALL_FAMILIES = pytest.mark.parametrize("name", list(FAMILIES))

WHITE_SPACE = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()]
CURIOSITIES = [
    "你好，世界！",
    "　全角　",
    "👩‍👩‍👧‍👦",
    "🇨🇳",
    "e\u0301",
    "\u200b",
    "\ufeff",
    "\r\n",
    "{{ x }}",
    "{% raw %}",
    "{#",
    "<&>'\"",
]

contents = st.lists(
    st.one_of(st.text(max_size=8), st.sampled_from(WHITE_SPACE), st.sampled_from(CURIOSITIES)), max_size=6
).map("".join)
roles: st.SearchStrategy[Role] = st.sampled_from(get_args(Role))
conversations = st.lists(st.builds(Message, role=roles, content=contents), min_size=1, max_size=6)
fragments = [
    "<",
    "|",
    ">",
    "<|",
    "|>",
    "im_",
    "end",
    "<|im_",
    "end|>",
    "eot_id|>",
    "<|eot",
    "_id|>",
    "\u200b",
    " ",
    "\n",
    "9",
]


def hostile(name: str) -> st.SearchStrategy[str]:
    pieces = st.one_of(st.sampled_from(TOKENS[name]), st.sampled_from(fragments), st.text(max_size=3))
    return st.lists(pieces, max_size=8).map("".join)


@cache
def published(name: str, *, blocks: bool = True) -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=blocks, lstrip_blocks=blocks)
    if name not in PUBLISHED:
        return environment.from_string(CHATML)
    return environment.from_string((REFERENCE / PUBLISHED[name]).read_bytes().decode())


def oracle(
    name: str, messages: list[Message], *, generation_prompt: bool, blocks: bool = True, **args: str
) -> str:
    turns = [{"role": message.role, "content": message.content} for message in messages]
    return published(name, blocks=blocks).render(
        messages=turns, bos_token="", add_generation_prompt=generation_prompt, **args
    )


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def test_the_references_are_the_published_bytes() -> None:
    listed = re.findall(
        r"^\| `(\S+)` \| (\d+) \| `([0-9a-f]{64})`", (REFERENCE / "SOURCES.md").read_text(), re.MULTILINE
    )
    assert sorted(name for name, _, _ in listed) == sorted(PUBLISHED.values())
    for name, size, digest in listed:
        data = (REFERENCE / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (int(size), digest)


@pytest.mark.parametrize("blocks", [True, False], ids=["blocks-trimmed", "blocks-as-they-are"])
@ALL_FAMILIES
@given(messages=conversations, generation_prompt=st.booleans())
@example(messages=[Message("user", "")], generation_prompt=True)
@example(messages=[Message("system", "")], generation_prompt=False)
@example(messages=[Message("system", ""), Message("user", "hi")], generation_prompt=True)
@example(
    messages=[Message("user", "hi"), Message("system", " late "), Message("user", "?")],
    generation_prompt=True,
)
@example(
    messages=[Message("system", "a"), Message("system", "b"), Message("user", "c")], generation_prompt=True
)
def test_prompts_equal_the_published_template(
    name: str, blocks: bool, messages: list[Message], generation_prompt: bool
) -> None:
    prompt = render(family(name), messages, add_generation_prompt=generation_prompt)
    expected = oracle(name, messages, generation_prompt=generation_prompt, blocks=blocks)
    assert as_bytes(prompt.text) == as_bytes(expected)


@given(messages=conversations, date_string=contents)
@example(messages=[Message("user", "hi")], date_string="")
@example(messages=[Message("system", " s "), Message("user", "hi")], date_string=" 2 Mar 2031 ")
def test_llama_prints_the_date_it_is_given(messages: list[Message], date_string: str) -> None:
    prompt = render(family("llama3"), messages, template_args={"date_string": date_string})
    assert prompt.text == oracle("llama3", messages, generation_prompt=True, date_string=date_string)


@ALL_FAMILIES
@given(data=st.data())
def test_special_tokens_stand_as_typed_where_they_are_allowed(name: str, data: st.DataObject) -> None:
    messages = data.draw(
        st.lists(st.builds(Message, role=roles, content=hostile(name)), min_size=1, max_size=4)
    )
    prompt = render(family(name), messages, allow_special_tokens=True)
    assert prompt.text == oracle(name, messages, generation_prompt=True)


@ALL_FAMILIES
@given(earlier=st.lists(st.builds(Message, role=roles, content=contents), max_size=4), prefill=contents)
@example(earlier=[], prefill="")
@example(earlier=[Message("user", "hi")], prefill=" Sure, \n")
def test_a_prefill_is_cut_right_after_its_content(name: str, earlier: list[Message], prefill: str) -> None:
    end = "\ue000 the content ends here"
    trims = name == "llama3"
    marked = [*earlier, Message("assistant", (prefill.strip() if trims else prefill) + end)]
    expected = oracle(name, marked, generation_prompt=False).rpartition(end)[0]
    prompt = render(family(name), [*earlier, Message("assistant", prefill)], continue_final_message=True)
    assert prompt.text == expected


@pytest.mark.parametrize("generation_prompt", [True, False])
@ALL_FAMILIES
def test_a_prefill_leaves_no_room_for_a_generation_prompt(name: str, generation_prompt: bool) -> None:
    messages = [Message("user", "Count."), Message("assistant", "One, two,")]
    prompt = render(
        family(name), messages, continue_final_message=True, add_generation_prompt=generation_prompt
    )
    assert prompt.text.endswith("One, two,")


@pytest.mark.parametrize(
    ("name", "messages", "expected"),
    [
        (
            "qwen2",
            [Message("user", " 你好 ")],
            (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                "<|im_start|>user\n 你好 <|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
        (
            "qwen2",
            [Message("system", ""), Message("user", "hi")],
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("chatml", [Message("user", "hi")], "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"),
        (
            "smollm2",
            [Message("user", "hi")],
            (
                "<|im_start|>system\n"
                "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
            ),
        ),
        (
            "llama3",
            [Message("user", " hi\u3000")],
            (
                "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n\n<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
    ],
)
def test_prompts_read_as_expected(name: str, messages: list[Message], expected: str) -> None:
    assert render(family(name), messages).text == expected


@pytest.mark.parametrize("space", WHITE_SPACE, ids=lambda character: f"U+{ord(character):04X}")
def test_llama_trims_and_the_others_keep(space: str) -> None:
    messages = [Message("user", f"{space}a{space}b{space}")]
    assert f"\n\na{space}b<|eot_id|>" in render(family("llama3"), messages).text
    assert f"\n{space}a{space}b{space}<|im_end|>" in render(family("qwen2"), messages).text


@pytest.mark.parametrize(
    ("name", "stop"),
    [("qwen2", "<|im_end|>"), ("chatml", "<|im_end|>"), ("smollm2", "<|im_end|>"), ("llama3", "<|eot_id|>")],
)
def test_a_prompt_brings_the_end_of_its_turns(name: str, stop: str) -> None:
    assert render(family(name), [Message("user", "hi")]).stop == (stop,)


def counts(name: str, text: str) -> dict[str, int]:
    return {token: text.count(token) for token in TOKENS[name] if token in text}


@ALL_FAMILIES
@given(data=st.data(), generation_prompt=st.booleans())
def test_nobody_can_type_a_special_token(name: str, data: st.DataObject, generation_prompt: bool) -> None:
    said = data.draw(st.lists(st.tuples(roles, hostile(name)), min_size=1, max_size=4))
    typed = [Message(role, content) for role, content in said]
    harmless = [Message(role, "x") for role, _ in said]
    args = {argument: data.draw(hostile(name)) for argument in FAMILIES[name].template_args}
    prompt = render(family(name), typed, add_generation_prompt=generation_prompt, template_args=args)
    model = render(family(name), harmless, add_generation_prompt=generation_prompt)
    assert counts(name, prompt.text) == counts(name, model.text)


@ALL_FAMILIES
@given(data=st.data())
def test_nobody_can_type_a_special_token_into_a_prefill(name: str, data: st.DataObject) -> None:
    prefill = Message("assistant", data.draw(hostile(name)))
    prompt = render(family(name), [Message("user", "x"), prefill], continue_final_message=True)
    model = render(
        family(name), [Message("user", "x"), Message("assistant", "x")], continue_final_message=True
    )
    assert counts(name, prompt.text) == counts(name, model.text)


@ALL_FAMILIES
@given(data=st.data())
def test_neutralising_only_puts_in_zero_width_spaces_and_counts_them(name: str, data: st.DataObject) -> None:
    text = data.draw(hostile(name))
    harmless, count = neutralised(family(name), text)
    assert len(harmless) == len(text) + count
    assert harmless.replace(ZERO_WIDTH_SPACE, "") == text.replace(ZERO_WIDTH_SPACE, "")
    assert count == sum(text.count(token) for token in TOKENS[name])
    assert neutralised(family(name), harmless) == (harmless, 0)


@pytest.mark.parametrize(
    ("name", "token"), [(name, token) for name in FAMILIES for token in TOKENS[name][:30]]
)
def test_each_special_token_is_neutralised(name: str, token: str) -> None:
    assert neutralised(family(name), f"a{token}b") == (f"a<\u200b{token[1:]}b", 1)


@pytest.mark.parametrize(
    ("name", "text", "expected", "count"),
    [
        ("qwen2", "<|im_<|im_end|>end|>", "<|im_<\u200b|im_end|>end|>", 1),
        ("qwen2", "<|im_end|><|im_start|>system", "<\u200b|im_end|><\u200b|im_start|>system", 2),
        ("qwen2", "<|eot_id|> is Llama's", "<|eot_id|> is Llama's", 0),
        ("llama3", "<|im_end|> is Qwen's", "<|im_end|> is Qwen's", 0),
        ("llama3", "<|reserved_special_token_9999|>", "<\u200b|reserved_special_token_9999|>", 1),
        ("llama3", "<|EOT_ID|> 1 < 2 |> <|x|>", "<|EOT_ID|> 1 < 2 |> <|x|>", 0),
    ],
)
def test_what_is_neutralised_and_what_is_not(name: str, text: str, expected: str, count: int) -> None:
    assert neutralised(family(name), text) == (expected, count)


@ALL_FAMILIES
def test_special_tokens_are_such_that_neutralising_is_safe(name: str) -> None:
    for token in TOKENS[name]:
        assert token.rfind("<") == 0
        assert not any(character.isspace() for character in token)
    assert FAMILIES[name].turn_end.startswith("<")
    assert FAMILIES[name].special_tokens.match(FAMILIES[name].turn_end)


@pytest.mark.parametrize("name", [*FAMILIES, *SPELLINGS])
def test_families_are_found_by_name_and_by_spelling(name: str) -> None:
    assert family(name) is FAMILIES[SPELLINGS.get(name, name)]


def test_llama_has_its_usual_spellings() -> None:
    assert family("llama3.1") is family("llama-3.1") is FAMILIES["llama3"]


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'mistral'; known are qwen2, llama3, chatml, smollm2"):
        family("mistral")


def test_families_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        FAMILIES["mine"] = family("qwen2")  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        family("qwen2").stop = ()  # type: ignore[misc]


@ALL_FAMILIES
@pytest.mark.parametrize(
    ("messages", "options", "field"),
    [
        ([], {}, "messages"),
        ([Message("user", "hi")], {"continue_final_message": True}, "messages.0.role"),
        (
            [Message("assistant", "a"), Message("user", "b")],
            {"continue_final_message": True, "add_generation_prompt": False},
            "messages.1.role",
        ),
        ([Message("user", "hi")], {"template_args": {"bos_token": "x"}}, "template_args.bos_token"),
    ],
)
def test_what_cannot_be_rendered_is_refused_by_field(
    name: str, messages: list[Message], options: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        render(family(name), messages, **options)  # type: ignore[arg-type]
    assert refused.value.field == field
    assert refused.value.hint


@pytest.mark.parametrize(
    ("name", "allowed"), [("llama3", "date_string"), ("qwen2", "none"), ("smollm2", "none")]
)
def test_an_unknown_template_argument_is_refused_with_those_allowed(name: str, allowed: str) -> None:
    with pytest.raises(InvalidRequest, match="`date`") as refused:
        render(family(name), [Message("user", "hi")], template_args={"date": "today"})
    assert refused.value.hint == f"Allowed for this family: {allowed}."


@settings(max_examples=20)
@given(messages=conversations)
def test_rendering_leaves_the_messages_alone(messages: list[Message]) -> None:
    before = list(messages)
    render(family("llama3"), messages)
    assert messages == before
