"""The chat in a real terminal: what a person types, sees and is spared."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from chat.fake_gateway import CUT, HOLD, FakeGateway, answer, done, event, refusal, token
from chat.terminals import (
    ALT_ENTER,
    CTRL_C,
    CTRL_D,
    ENTER,
    PROMPT,
    TAB,
    UP,
    Terminal,
    environment,
    plain,
    terminal,
)
from harness import free_port, until

Chat = Callable[..., Terminal]


def last_messages(fake: FakeGateway) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in fake.bodies[-1]["messages"]]


def test_text_appears_as_it_arrives_and_the_receipt_after_it(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(token("Once upon"), HOLD, token(" a time."), done("Once upon a time."))
    screen.say("A story")
    screen.expect("Once upon")
    fake.release()
    screen.expect(" a time.")
    screen.expect("smollm2 · 21 tokens · 20.0 tokens/s · first token after 0.25 s")


def test_the_whole_conversation_is_sent_with_the_system_prompt_first(fake: FakeGateway, chat: Chat) -> None:
    screen = chat("--system", "Be brief.")
    fake.says(*answer("One."))
    screen.say("First")
    screen.expect("One.")
    screen.expect("tokens/s")
    screen.say("Second")
    screen.expect("Fine.")
    assert last_messages(fake) == [
        ("system", "Be brief."),
        ("user", "First"),
        ("assistant", "One."),
        ("user", "Second"),
    ]


def test_tab_offers_models_with_their_state_and_switches(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    screen.type("/model smollm2-")
    screen.expect("not loaded")
    screen.type(TAB)
    screen.expect("q8")
    screen.type(ENTER)
    screen.expect("Model: smollm2-q8 (not loaded). It is loaded with your next message.")
    screen.say("Hi")
    screen.expect("Fine.")
    assert fake.bodies[-1]["model_id"] == "smollm2-q8"


def test_a_switch_is_shown_in_one_line_that_goes_away(fake: FakeGateway, chat: Chat) -> None:
    screen = chat("--model", "smollm2-q8")
    news = {"model_id": "smollm2-q8", "phase": "loading"}
    fake.says(
        event("queued", model_id="smollm2-q8", position=2, eta_s=9.0),
        HOLD,
        event("loading", **news, progress=0.42, eta_s=3.2),
        HOLD,
        event("ready", model_id="smollm2-q8"),
        *answer("Here."),
    )
    screen.say("Hi")
    screen.expect("⟳ smollm2-q8: queued · position 2 · about 9 s left")
    screen.expect("about 8 s left")
    fake.release()
    screen.expect("⟳ smollm2-q8: loading 42 % · about 3 s left")
    fake.release()
    before = screen.expect("Here.")
    assert "\n" not in before
    assert "\r\x1b[KHere." in screen.seen


def test_ctrl_c_ends_the_answer_and_not_the_chat(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(token("Half an"), HOLD)
    screen.say("First")
    screen.expect("Half an")
    screen.type(CTRL_C)
    screen.expect("smollm2 · stopped")
    until(lambda: fake.left == 1, "the gateway sees the client leave")
    screen.say("Second")
    screen.expect("Fine.")
    assert last_messages(fake) == [("user", "First"), ("assistant", "Half an"), ("user", "Second")]


def test_ctrl_c_while_a_model_loads_leaves_nothing_behind(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(event("loading", model_id="smollm2", phase="loading"), HOLD)
    screen.say("First")
    screen.expect("⟳ smollm2: loading")
    screen.type(CTRL_C)
    screen.expect("stopped")
    until(lambda: fake.left == 1, "the gateway sees the client leave")
    screen.say("Second")
    screen.expect("Fine.")
    assert last_messages(fake) == [("user", "Second")]


def test_chinese_goes_in_and_comes_out(fake: FakeGateway, chat: Chat) -> None:
    screen = chat(LANG="zh_CN.UTF-8", welcome="Ctrl-D 退出")
    whole = b"".join(step for step in answer("你好！", "世界🙂") if isinstance(step, bytes))
    fake.says(*(whole[i : i + 7] for i in range(0, len(whole), 7)))
    screen.say("你好，世界！")
    screen.expect("你好！世界🙂")
    screen.expect("21 个 token")
    assert last_messages(fake) == [("user", "你好，世界！")]


@pytest.mark.parametrize(
    "typed",
    ["one\\" + ENTER + "two", "one" + ALT_ENTER + "two", "\x1b[200~one\r\ntwo\x1b[201~"],
    ids=["backslash", "alt-enter", "paste"],
)
def test_several_lines_are_one_message(fake: FakeGateway, chat: Chat, typed: str) -> None:
    screen = chat()
    screen.say(typed)
    screen.expect("Fine.")
    assert [last_messages(fake), len(fake.bodies)] == [[("user", "one\ntwo")], 1]


def test_ctrl_c_at_the_prompt_drops_the_line_then_hints(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    screen.type("half a thought" + CTRL_C)
    screen.expect(PROMPT)
    screen.type(CTRL_C)
    between = screen.expect("Ctrl-D or /quit leaves the chat.")
    assert "leaves the chat" not in between
    screen.type(CTRL_D)
    assert screen.ended() == 0
    assert fake.bodies == []


def test_the_history_lasts_and_is_private(chat: Chat, tmp_path: Path) -> None:
    first = chat()
    first.say("remember me")
    first.expect("tokens/s")
    first.say("/quit")
    assert first.ended() == 0
    history = tmp_path / "state" / "unified-llm-gateway" / "chat_history"
    assert history.stat().st_mode & 0o777 == 0o600
    assert history.parent.stat().st_mode & 0o777 == 0o700
    second = chat()
    second.type(UP)
    second.expect("/quit")
    second.type(UP)
    second.expect("remember me")


def test_a_history_that_cannot_be_written_is_said_once(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a folder should be")
    screen = chat(welcome="The history stays in memory")
    screen.say("Hi")
    screen.expect("Fine.")


def test_keys_typed_during_an_answer_wait_for_the_prompt(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(token("Half"), HOLD, token(" whole"), done("Half whole"))
    screen.say("First")
    screen.expect("Half")
    until(lambda: not screen.echoes(), "the echo is off")
    screen.type("Second")
    fake.release()
    assert screen.expect(" whole") == ""
    screen.expect("Second")
    screen.type(ENTER)
    screen.expect("Fine.")
    assert last_messages(fake)[-1] == ("user", "Second")


def test_a_termination_leaves_the_terminal_as_it_was(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(token("Half"), HOLD)
    screen.say("First")
    screen.expect("Half")
    until(lambda: not screen.echoes(), "the echo is off")
    screen.process.send_signal(signal.SIGTERM)
    until(screen.echoes, "the echo is on again")
    assert screen.ended() == 143
    assert "Traceback" not in screen.seen


def test_a_lost_connection_keeps_the_partial_answer_and_retry_asks_again(
    fake: FakeGateway, chat: Chat
) -> None:
    screen = chat()
    fake.says(token("Half an"), CUT)
    screen.say("First")
    screen.expect("The connection to the gateway was lost in the middle of the answer.")
    screen.expect("/retry asks again.")
    screen.say("/retry")
    screen.expect("Fine.")
    assert last_messages(fake) == [("user", "First")]


def test_a_refusal_is_shown_and_the_chat_goes_on(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(refusal(422, type="validation", field="messages", message="The input is too long."))
    screen.say("First")
    screen.expect("The input is too long.")
    screen.expect("/clear starts a new conversation.")
    screen.say("Second")
    screen.expect("Fine.")
    assert last_messages(fake) == [("user", "Second")]


def test_an_absent_gateway_is_named_and_may_come_later(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with terminal(["--url", url], environment(tmp_path)) as screen:
        screen.expect(f"No gateway answers at {url}: Connection refused.")
        screen.expect("`make up`")
        screen.expect(PROMPT)
        screen.say("Hi")
        screen.expect(f"No gateway answers at {url}")
        screen.type(CTRL_D)
        assert screen.ended() == 0


def test_control_characters_of_an_answer_do_nothing(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    fake.says(*answer("a\x1b]0;title\x07b\rc\x9bd"))
    screen.say("Hi")
    screen.expect("a␛]0;title␇bc\N{REPLACEMENT CHARACTER}d")


def test_a_scenario_sends_no_history_and_says_so(fake: FakeGateway, chat: Chat) -> None:
    screen = chat()
    screen.say("First")
    screen.expect("tokens/s")
    screen.say("/scenario qa")
    screen.expect("Each message is now answered alone")
    screen.say("Why?")
    screen.expect("tokens/s")
    assert (fake.bodies[-1]["scenario"], fake.bodies[-1]["inputs"]) == ("qa", "Why?")
    assert "messages" not in fake.bodies[-1]


def test_commands_change_and_show(fake: FakeGateway, chat: Chat, tmp_path: Path) -> None:
    screen = chat()
    for line, said in [
        ("/modle x", "There is no command /modle. Did you mean /model?"),
        ("/model smolm2-q8", "The gateway has no model smolm2-q8. Did you mean smollm2-q8?"),
        ("/models", "* smollm2 (small) · ready · default · memory 150 MB"),
        ("/params temperature=0.2 stop=END", 'Parameters: temperature=0.2 stop=["END"]'),
        ("/params top=1", "There is no parameter top."),
        ("/system Be kind.", "System prompt set"),
        ("/save x.md", "nothing to save"),
        ("//slash", "Fine."),
        (f"/save {tmp_path}/talk.json", "Saved to"),
        (f"/save {tmp_path}/talk.json", "exists. /save --force"),
        ("/clear", "New conversation."),
        ("/retry", "There is nothing to ask again."),
        ("/help", "/scenario  NAME"),
    ]:
        screen.say(line)
        screen.expect(said)
    assert fake.bodies[-1]["parameters"] == {"temperature": 0.2, "stop": ["END"]}
    assert last_messages(fake) == [("system", "Be kind."), ("user", "/slash")]
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["exchanges"][0]["answer"] == "Fine."


def test_no_color_means_no_colour(fake: FakeGateway, chat: Chat) -> None:
    screen = chat(NO_COLOR="1")
    screen.say("Hi")
    screen.expect("tokens/s")
    screen.say("/nonsense")
    screen.expect("no command")
    colours = re.findall(r"\x1b\[([0-9;]*)m", screen.seen)
    assert [colour for colour in colours if re.search(r"\b(2|3[0-7]|9[0-7]|38)\b", colour)] == []


def test_a_dumb_terminal_gets_lines_and_no_escapes(fake: FakeGateway, chat: Chat) -> None:
    screen = chat(TERM="dumb")
    fake.says(event("loading", model_id="smollm2", phase="loading"), *answer("Hello"))
    screen.say("Hi")
    screen.expect("⟳ smollm2: loading\r\nHello\r\nsmollm2 · 21 tokens")
    assert plain(screen.seen) == screen.seen
