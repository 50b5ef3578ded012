"""The chat through pipes: whole transcripts, standard output and standard error apart."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chat.fake_gateway import CUT, HOLD, FakeGateway, Refuse, answer, done, event, refusal, token
from chat.terminals import CHAT, environment
from harness import free_port, until

Run = Callable[..., "subprocess.CompletedProcess[str]"]
RECEIPT = "smollm2 · 21 tokens · 20.0 tokens/s · first token after 0.25 s\n"


def test_only_the_answer_is_on_standard_output(fake: FakeGateway, run: Run) -> None:
    fake.says(*answer("Hello", ", ", "world!"))
    finished = run("Say", "hello")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "Hello, world!\n", RECEIPT)
    assert fake.bodies == [
        {
            "scenario": "general",
            "messages": [{"role": "user", "content": "Say hello"}],
            "stream": True,
            "events": True,
        }
    ]


def test_options_reach_the_request(fake: FakeGateway, run: Run, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret-1\n")
    run("--model=q8", "--system=Be brief.", "--param=temperature=0.2", f"--api-key-file={key}", "Hi")
    body = fake.bodies[0]
    assert (body["model_id"], body["parameters"]) == ("q8", {"temperature": 0.2})
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert fake.keys == ["Bearer secret-1"]


def test_the_key_comes_from_the_environment(fake: FakeGateway, run: Run) -> None:
    run("Hi", GATEWAY_API_KEY="secret-2")
    assert fake.keys == ["Bearer secret-2"]


def test_a_scenario_sends_the_prompt_as_inputs(fake: FakeGateway, run: Run) -> None:
    run("--scenario", "summary", "-q", stdin="A long text.\n")
    assert fake.bodies[0]["inputs"] == "A long text."
    assert "messages" not in fake.bodies[0]


@pytest.mark.parametrize(
    ("words", "stdin", "prompt"),
    [
        ([], "piped\n", "piped"),
        (["words"], "not read", "words"),
        (["Summarise:", "-"], "piped\n", "Summarise:\n\npiped"),
        (["-", "Summarise", "this."], "piped\n", "piped\n\nSummarise this."),
        ([], "你好，世界\n", "你好，世界"),
        ([], b"\xef\xbb\xbfwith a mark", "with a mark"),
    ],
)
def test_the_prompt_is_words_or_standard_input(
    fake: FakeGateway, run: Run, words: list[str], stdin: str | bytes, prompt: str
) -> None:
    run(*words, stdin=stdin)
    assert fake.bodies[0]["messages"][0]["content"] == prompt


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        ([], "  \n", "nothing to ask"),
        ([], "你好".encode("gb18030"), "not text in UTF-8"),
        (["--api-key-file", "/nowhere/key", "Hi"], "", "/nowhere/key cannot be read: No such file"),
        (["--param", "temprature=1", "Hi"], "", "no parameter temprature. Did you mean temperature?"),
        (["--param", "temperature", "Hi"], "", "temperature is not NAME=VALUE"),
        (["--url", "ftp://here", "Hi"], "", "ftp://here"),
        (["--nonsense"], "", "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_usage_is_code_2_and_no_request(
    fake: FakeGateway, run: Run, arguments: list[str], stdin: str | bytes, said: str
) -> None:
    finished = run(*arguments, stdin=stdin)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert said in finished.stderr
    assert "Traceback" not in finished.stderr
    assert fake.bodies == []


def test_a_refusal_is_a_sentence_with_its_hint_and_when_to_come_back(fake: FakeGateway, run: Run) -> None:
    fake.says(
        refusal(
            503,
            type="model_unavailable",
            message="llama3 did not start.",
            hint="See the log.",
            retry_after_s=12.4,
            request_id="abc",
        )
    )
    finished = run("Hi")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == "llama3 did not start. [request abc]\nSee the log.\nTry again in 12 s.\n"


def test_the_retry_after_header_counts_when_the_error_has_none(fake: FakeGateway, run: Run) -> None:
    body = b'{"error": {"type": "overloaded", "message": "The queue is full."}}'
    fake.says(Refuse(429, body, ((b"retry-after", b"7"),)))
    assert run("Hi").stderr == "The queue is full.\nTry again in 7 s.\n"


def test_a_missing_key_says_where_to_give_it(fake: FakeGateway, run: Run) -> None:
    fake.says(refusal(401, type="unauthorized", message="A key is needed."))
    assert "--api-key-file FILE" in run("Hi").stderr


@pytest.mark.parametrize(
    "first", [Refuse(502, b"<html>Bad Gateway</html>"), Refuse(200, b"hello"), Refuse(302, b"")]
)
def test_something_else_at_the_address_is_named(fake: FakeGateway, run: Run, first: Refuse) -> None:
    fake.says(first)
    finished = run("Hi")
    assert finished.returncode == 1
    assert f"{fake.url} answered with status {first.status}, but not as the gateway does." in finished.stderr


def test_an_absent_gateway_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, str(CHAT), "--url", url, "Hi"]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), timeout=20)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith(f"No gateway answers at {url}: Connection refused.\n")
    assert "`make up`" in finished.stderr


@pytest.mark.parametrize("end", [[CUT], []])
def test_an_answer_without_an_end_is_a_lost_connection(
    fake: FakeGateway, run: Run, end: list[object]
) -> None:
    fake.says(token("Half an "), *end)
    finished = run("Hi")
    assert (finished.returncode, finished.stdout) == (1, "Half an \n")
    assert finished.stderr == "The connection to the gateway was lost in the middle of the answer.\n"


def test_an_error_in_the_stream_keeps_what_came_before_it(fake: FakeGateway, run: Run) -> None:
    fake.says(token("Half"), event("error", error={"type": "engine_error", "message": "The engine died."}))
    finished = run("Hi")
    assert (finished.returncode, finished.stdout) == (1, "Half\n")
    assert finished.stderr == "The engine died.\n"


def test_each_step_of_a_load_is_one_line_on_standard_error(fake: FakeGateway, run: Run) -> None:
    loading = {"model_id": "smollm2-q8", "phase": "loading"}
    fake.says(
        event("draining", model_id="smollm2-q8", eta_s=6.0),
        event("loading", **loading, progress=0.42, eta_s=3.2),
        event("loading", **loading, progress=0.9, eta_s=1.0),
        event("ready", model_id="smollm2-q8"),
        token("Hi"),
        done("Hi", "smollm2-q8", queue_ms=200.0, load_ms=5100.0),
    )
    finished = run("Hi")
    assert finished.stdout == "Hi\n"
    assert finished.stderr.splitlines() == [
        "⟳ smollm2-q8: waiting until running answers are finished · about 6 s left",
        "⟳ smollm2-q8: loading 42 % · about 3 s left",
        "smollm2-q8 · 21 tokens · 20.0 tokens/s · first token after 5.5 s · queue 0.20 s · load 5.1 s",
    ]


def test_quiet_leaves_only_errors(fake: FakeGateway, run: Run) -> None:
    fake.says(event("loading", model_id="smollm2", phase="loading"), *answer("Hi"))
    finished = run("-q", "Hi")
    assert (finished.stdout, finished.stderr) == ("Hi\n", "")


def test_characters_split_between_chunks_arrive_whole(fake: FakeGateway, run: Run) -> None:
    whole = b"".join(step for step in answer("你好，", "世界！🙂") if isinstance(step, bytes))
    fake.says(*(whole[i : i + 1] for i in range(len(whole))))
    assert run("你好").stdout == "你好，世界！🙂\n"
    assert fake.bodies[0]["messages"][0]["content"] == "你好"


def test_a_pipe_gets_the_answer_untouched(fake: FakeGateway, run: Run) -> None:
    fake.says(*answer("\x1b[31mred\x1b[0m\ttab\n"))
    assert run("Hi").stdout == "\x1b[31mred\x1b[0m\ttab\n"


def test_the_answer_streams_into_a_pipe(fake: FakeGateway, tmp_path: Path) -> None:
    fake.says(token("first"), HOLD, token("second"), done("firstsecond"))
    command = [sys.executable, str(CHAT), "--url", fake.url, "Hi"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read1(100) == b"first"
        fake.release()
        assert process.communicate(timeout=10)[0] == b"second\n"


def test_an_interrupt_is_code_130_and_the_gateway_sees_the_client_leave(
    fake: FakeGateway, tmp_path: Path
) -> None:
    fake.says(token("first"), HOLD)
    command = [sys.executable, str(CHAT), "--url", fake.url, "Hi"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
        # Who runs the tests in the background has it ignored, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read1(100) == b"first"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
    assert (process.returncode, rest, errors) == (130, b"\n", b"")
    until(lambda: fake.left == 1, "the gateway sees the client leave")


def test_a_reader_that_leaves_ends_it_without_a_traceback(fake: FakeGateway, tmp_path: Path) -> None:
    fake.says(token("first"), HOLD, *answer("first", "second"))
    command = [sys.executable, str(CHAT), "--url", fake.url, "-q", "Hi"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(tmp_path)
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read1(100) == b"first"
        process.stdout.close()
        fake.release()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_chinese_locale_speaks_chinese(fake: FakeGateway, run: Run) -> None:
    fake.says(*answer("好"))
    finished = run("你好", LC_ALL="zh_CN.UTF-8")
    assert finished.stdout == "好\n"
    assert finished.stderr == "smollm2 · 21 个 token · 20.0 token/秒 · 首个 token 用时 0.25 秒\n"


@pytest.mark.parametrize("lang", ["C", "zh_CN.UTF-8", "en_US.ISO-8859-1"])
def test_help_is_printed_in_every_locale(run: Run, lang: str) -> None:
    finished = run("--help", LANG=lang)
    assert finished.returncode == 0
    assert "--api-key-file FILE" in finished.stdout


def test_an_old_or_bare_python_says_what_to_do(tmp_path: Path) -> None:
    copy = tmp_path / "examples" / "chat_cli.py"
    copy.parent.mkdir()
    copy.write_bytes(CHAT.read_bytes())
    command = [sys.executable, "-I", str(copy), "Hi"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert finished.returncode == 1
    assert finished.stderr == f"chat_cli.py needs gateway. Run `make setup` in {tmp_path} and try again.\n"


def test_a_bare_python_starts_the_one_of_the_environment(tmp_path: Path) -> None:
    copy = tmp_path / "examples" / "chat_cli.py"
    copy.parent.mkdir()
    copy.write_bytes(CHAT.read_bytes())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho started "$@"\n')
    python.chmod(0o755)
    command = [sys.executable, "-I", os.fspath(copy), "Hi", "there"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert finished.stdout == f"started {copy} Hi there\n"


def test_answer_that_cannot_be_written_is_said_in_one_line(fake: FakeGateway, tmp_path: Path) -> None:
    fake.says(*answer("Hello"))
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, str(CHAT), "--url", fake.url, "Hi"]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, env=environment(tmp_path), timeout=20, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode() == "Standard output cannot be written: No space left on device.\n"


def test_port_that_cannot_be_is_refused(run: Run) -> None:
    finished = run("--url", "http://127.0.0.1:99999", "Hi")
    assert finished.returncode == 2
    assert "http://HOST:PORT" in finished.stderr
    assert "Traceback" not in finished.stderr
