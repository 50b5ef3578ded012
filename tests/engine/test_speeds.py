"""The speed model of the echo engine: published figures, one clock for the batch, room, calibration."""

from __future__ import annotations

import asyncio
import itertools
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from engine_process import Engine, until

from benchmarks.calibrate.__main__ import main as calibrate
from benchmarks.calibrate.fit import Stream
from benchmarks.calibrate.measure import Measured, Plan, measure
from benchmarks.calibrate.preset import Told, toml
from benchmarks.switching import parameters
from gateway.engine.__main__ import Engine as Built
from gateway.engine.__main__ import build, parser
from gateway.engine.batch import Batch
from gateway.engine.echo import EchoBackend
from gateway.engine.room import Room
from gateway.engine.speed import Speed, UnknownSpeed, from_preset, published, speed_of

QWEN, LLAMA = "qwen2-7b-gptq-int4", "llama-3.1-8b-gptq-int4"
ROOT = Path(__file__).parents[2]
PAGES = ("docs/CALIBRATION.md", "docs/CALIBRATION.zh-CN.md")
FLAT = Speed(0, 1.0, 0.1, 0.0, ((1, 1.0),), 8, None, 100, 0, 100, 200)
StartEcho = Callable[..., Engine]


class Clock:
    """Virtual seconds: sleeping moves them on at once, after everybody else had their turn."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await self.others()
        self.now += seconds

    async def others(self) -> None:
        for _ in range(8):
            await asyncio.sleep(0)


async def stream(batch: Batch, clock: Clock, input_tokens: int, length: int) -> Stream:
    sent_s = clock()
    seat = batch.enter(input_tokens, length)
    arrived: list[float] = []
    for _ in range(length):
        await seat.token()
        arrived.append(clock())
    return Stream(input_tokens, sent_s, tuple(arrived))


@pytest.mark.parametrize("name", [QWEN, LLAMA])
def test_every_figure_is_inside_its_range_and_has_its_sources(name: str) -> None:
    table = published()
    figures = {key: figure for key, figure in table["presets"][name].items() if key != "title"}
    for key, figure in figures.items():
        assert set(figure) == {"value", "range", "unit", "kind", "how", "sources"}, key
        assert figure["kind"] in ("measured", "derived", "assumed"), key
        assert figure["sources"] or figure["kind"] == "assumed", key
        assert set(figure["sources"]) <= set(table["sources"]), key
        values = figure["value"] if isinstance(figure["value"], dict) else {"": figure["value"]}
        ranges = figure["range"] if isinstance(figure["range"], dict) else {"": figure["range"]}
        assert values.keys() == ranges.keys()
        for point, value in values.items():
            low, high = ranges[point]
            assert low <= value <= high, (key, point)


def test_every_source_is_used_and_says_what_where_and_when() -> None:
    table = published()
    used = {
        source
        for preset in table["presets"].values()
        for key, figure in preset.items()
        if key != "title"
        for source in figure["sources"]
    }
    assert used == set(table["sources"])
    assert all(source.keys() == {"what", "where", "date"} for source in table["sources"].values())


@pytest.mark.parametrize(("name", "engine"), [(QWEN, parameters.QWEN), (LLAMA, parameters.LLAMA)])
def test_the_benchmark_of_switching_has_the_same_figures(name: str, engine: parameters.Engine) -> None:
    speed = speed_of(name)
    assert (speed.load_s, speed.memory_bytes) == (engine.load_s, engine.footprint_bytes)
    assert 1 / speed.decode(1, 0) == pytest.approx(engine.tokens_per_s, rel=0.01)
    assert 1 / speed.prefill_s_per_token == pytest.approx(engine.prefill_tokens_per_s, rel=0.01)
    slowdown = speed.decode(32, 0) / speed.decode(1, 0)
    assert slowdown == pytest.approx(1 + 31 * parameters.SLOWDOWN_PER_STREAM, rel=0.05)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", [QWEN, LLAMA])
def test_the_page_has_every_figure(page: str, name: str) -> None:
    rows = _rows((ROOT / page).read_text(encoding="utf-8"), name)
    figures = {key: figure for key, figure in published()["presets"][name].items() if key != "title"}
    assert rows.keys() == figures.keys()
    for key, figure in figures.items():
        values = figure["value"] if isinstance(figure["value"], dict) else {"": figure["value"]}
        ranges = figure["range"] if isinstance(figure["range"], dict) else {"": figure["range"]}
        value, allowed, kind, sources = rows[key]
        assert value == " · ".join(_shown(key, value) for value in values.values()), key
        assert allowed == " · ".join(
            "–".join(_shown(key, end) for end in ends) for ends in ranges.values()
        ), key
        assert kind == {"measured": "m", "derived": "d", "assumed": "a"}[figure["kind"]], key
        assert sources == figure["sources"], key


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_every_source(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, source in published()["sources"].items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert source["date"] in row
        for word in source["where"].split():
            if word.startswith("https://"):
                assert word.rstrip(",;") in row, name


def _shown(key: str, value: float) -> str:
    """As the pages say it: per token in microseconds, passes in milliseconds."""
    if key in ("prefill_s_per_token", "context_s_per_token"):
        return f"{value * 1e6:.4g} µs"
    if key in ("decode_s", "prefill_fixed_s"):
        return f"{value * 1000:.4g} ms"
    return f"{value:,}"


def _rows(text: str, name: str) -> dict[str, tuple[str, str, str, list[str]]]:
    """The table below the heading of a preset: figure, value, range, kind, sources."""
    section = text.split(f"### `{name}`")[1].split("\n#")[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            sources = [source.strip("` ") for source in cells[4].split(",") if source.strip("` —")]
            rows[cells[0].strip("`")] = (cells[1], cells[2], cells[3][:1], sources)
    return rows


# Options


def built(*arguments: str) -> Built:
    options = parser().parse_args(["--backend", "echo", "--port", "0", *arguments])
    options.model_id = "m"
    return build(options)


def speed(engine: Built) -> Speed:
    assert isinstance(engine.backend, EchoBackend)
    found = engine.backend._settings.speed
    assert found is not None
    return found


def test_a_preset_sets_times_limits_slots_and_room_and_takes_no_memory() -> None:
    engine = built("--speed", LLAMA)
    assert speed(engine) == speed_of(LLAMA)
    assert (engine.slots, engine.batch_tokens) == (32, 36_000)
    assert (engine.limits.max_input_tokens, engine.limits.max_total_tokens) == (4000, 8000)
    assert isinstance(engine.backend, EchoBackend)
    assert engine.backend._settings.memory_bytes == 0


def test_single_options_win_over_the_preset_and_are_not_scaled() -> None:
    engine = built(
        "--speed", LLAMA, "--speed-scale", "10", "--load-s", "2", "--slots", "3", "--tokens-per-s", "50"
    )
    assert (speed(engine).load_s, engine.slots) == (2.0, 3)
    assert speed(engine).decode(7, 5000) == 0.02
    assert speed(engine).prefill(0) == pytest.approx(0.00139)


def test_the_scale_shortens_everything() -> None:
    fast, slow = speed_of(QWEN).scaled(4), speed_of(QWEN)
    assert fast.load_s == slow.load_s / 4
    assert fast.prefill(1000) == pytest.approx(slow.prefill(1000) / 4)
    assert fast.decode(40, 9000) == pytest.approx(slow.decode(40, 9000) / 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--speed", "qwen3"), "Known are llama-3.1-8b-gptq-int4, qwen2-7b-gptq-int4"),
        (("--speed", "nowhere.toml"), "nowhere.toml cannot be read"),
        (("--speed-scale", "2"), "scales a --speed, and none is given"),
    ],
)
def test_a_speed_that_is_none_is_said_in_words(
    start_echo: StartEcho, arguments: tuple[str, ...], words: str
) -> None:
    engine = start_echo(*arguments)
    assert engine.process.wait(20) == 2
    engine.wait_for_line(words)


def test_a_file_without_one_preset_is_no_speed(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text("[presets.a]\n[presets.b]\n", encoding="utf-8")
    with pytest.raises(UnknownSpeed, match="no file with one preset"):
        speed_of(str(path))


# The table of steps


@pytest.mark.parametrize(("running", "step_s"), [(1, 0.010), (2, 0.012), (3, 0.014), (8, 0.020), (12, 0.022)])
def test_between_points_the_step_is_on_a_line_and_goes_on_beyond(running: int, step_s: float) -> None:
    table = Speed(0, 0, 0, 0, ((1, 0.010), (4, 0.016), (8, 0.020), (10, 0.021)), 8, None, 1, 0, 1, 1)
    assert table.decode(running, 0) == pytest.approx(step_s)


# One clock


async def test_all_streams_get_a_token_in_each_step_and_newcomers_hold_them_up() -> None:
    clock = Clock()
    batch = Batch(FLAT, clock, clock.sleep)
    first = asyncio.create_task(stream(batch, clock, 10, 6))
    while clock.now < 4:  # read in 2 s, then steps of 1 s
        await asyncio.sleep(0)
    second = await stream(batch, clock, 20, 3)
    assert (await first).arrived_s == pytest.approx((2, 3, 4, 5, 9, 10))
    held_up = max(b - a for a, b in itertools.pairwise((await first).arrived_s))
    assert held_up == pytest.approx(4.0)  # 3 s to read twenty tokens, then the step itself
    assert second.arrived_s[1:] == (await first).arrived_s[-2:]


async def test_who_came_together_is_read_in_one_pass_as_far_as_it_goes() -> None:
    clock = Clock()
    batch = Batch(FLAT, clock, clock.sleep)  # a pass reads 100 tokens
    answers = await asyncio.gather(*(stream(batch, clock, 40, 1) for _ in range(3)))
    assert [answer.first_s for answer in answers] == pytest.approx([9, 9, 14])


async def test_what_is_behind_makes_steps_longer() -> None:
    clock = Clock()
    heavy = Speed(0, 0.0, 0.0, 0.01, ((1, 1.0),), 8, None, 1000, 0, 100, 200)
    answer = await stream(Batch(heavy, clock, clock.sleep), clock, 100, 4)
    steps = [b - a for a, b in itertools.pairwise(answer.arrived_s)]
    assert steps == pytest.approx([2.01, 2.02, 2.03])


async def test_leaving_makes_the_batch_smaller_and_the_clock_stops_with_the_last() -> None:
    clock = Clock()
    two = Speed(0, 1.0, 0.0, 0.0, ((1, 1.0), (2, 5.0)), 8, None, 1000, 0, 100, 200)
    batch = Batch(two, clock, clock.sleep)
    leaver = batch.enter(1, 50)
    stays = asyncio.create_task(stream(batch, clock, 1, 5))
    await leaver.token()
    await leaver.token()
    batch.leave(leaver)
    batch.leave(leaver)
    arrived = (await stays).arrived_s
    assert arrived[-1] - arrived[-2] == pytest.approx(1.0)
    await clock.others()
    stopped_at = clock.now
    await clock.others()
    assert clock.now == stopped_at
    assert batch._context_tokens == 0
    assert (await stream(batch, clock, 1, 2)).first_s == pytest.approx(1.0)


async def test_a_reader_that_sleeps_does_not_slow_the_others() -> None:
    clock = Clock()
    batch = Batch(FLAT, clock, clock.sleep)
    sleeper = batch.enter(10, 5)
    other = await stream(batch, clock, 10, 5)
    steps = [b - a for a, b in itertools.pairwise(other.arrived_s)]
    assert steps == pytest.approx([1, 1, 1, 1])
    at = clock.now
    for _ in range(5):
        await sleeper.token()
    assert clock.now == at


# Room


async def test_room_counts_slots_and_tokens_in_order_of_arrival() -> None:
    room = Room(3, 100)
    inside: list[str] = []

    async def enter(name: str, tokens: int) -> None:
        await room.enter(tokens)
        inside.append(name)

    await enter("a", 60)
    large = asyncio.create_task(enter("large", 50))
    small = asyncio.create_task(enter("small", 10))
    await asyncio.sleep(0)
    assert inside == ["a"]  # the small one would fit, but was later
    large.cancel()
    await asyncio.gather(large, return_exceptions=True)
    await small
    room.leave(60)
    room.leave(10)
    await enter("huge", 500)  # alone rather than never
    late = asyncio.create_task(enter("late", 1))
    await asyncio.sleep(0)
    assert inside == ["a", "small", "huge"]
    room.leave(500)
    await late


async def test_a_turn_that_comes_to_one_who_leaves_goes_on_to_the_next() -> None:
    room = Room(1)
    await room.enter(1)
    leaver, next_one = asyncio.create_task(room.enter(1)), asyncio.create_task(room.enter(1))
    await asyncio.sleep(0)
    room.leave(1)  # the leaver's turn
    leaver.cancel()
    await asyncio.gather(leaver, return_exceptions=True)
    await asyncio.wait_for(next_one, 5)


# Calibration


async def test_calibration_gets_back_what_the_batch_was_given() -> None:
    given = speed_of(LLAMA)
    clock = Clock()
    batch = Batch(given, clock, clock.sleep)
    plan = Plan((1, 2, 4, 8, 16, 32), (64, 512, 2048), new_tokens=40, repeats=1)
    found = await measure(lambda inputs, wanted: stream(batch, clock, inputs, wanted), plan, lambda _: None)
    assert found.prefill_fixed_s == pytest.approx(given.prefill_fixed_s, rel=0.01)
    assert found.prefill_s_per_token == pytest.approx(given.prefill_s_per_token, rel=0.01)
    assert found.context_s_per_token == pytest.approx(given.context_s_per_token, rel=0.01)
    for running, step_s in found.decode_s.items():
        assert step_s == pytest.approx(given.decode(running, 0), rel=0.01), running
    assert found.together == 32


def test_a_running_engine_is_calibrated_into_a_file_that_engines_take(
    start_echo: StartEcho, tmp_path: Path
) -> None:
    """At a fifth of the speed, where a machine that stutters still shows the schedule: steps of 70 ms."""
    engine = start_echo("--speed", LLAMA, "--speed-scale", "0.2", "--load-s", "0").wait_ready()
    path = tmp_path / "mine.toml"
    few = ("--batches", "1,8", "--inputs", "64,1024", "--new-tokens", "10", "--repeats", "1")
    assert calibrate([engine.url, *few, "--out", str(path), "--name", "我的", "--load-s", "3"]) == 0
    preset = tomllib.loads(path.read_text(encoding="utf-8"))["presets"]["我的"]
    found, given = from_preset(preset), speed_of(LLAMA).scaled(0.2)
    assert found.load_s == 3
    assert found.prefill_s_per_token == pytest.approx(given.prefill_s_per_token, rel=0.3)
    assert found.decode(1, 0) == pytest.approx(given.decode(1, 0), rel=0.3)
    assert found.decode(8, 0) == pytest.approx(given.decode(8, 0), rel=0.3)
    assert speed(built("--speed", str(path))) == found


def test_calibration_of_nothing_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibrate(["http://127.0.0.1:9"]) == 1
    assert "calibrate: http://127.0.0.1:9:" in capsys.readouterr().err


# The process


def test_more_than_the_slots_wait_in_the_engine_and_texts_stay_exact(start_echo: StartEcho) -> None:
    fast = ("--speed", QWEN, "--speed-scale", "50", "--load-s", "0", "--slots", "4")
    engine = start_echo(*fast).wait_ready()
    answers = asyncio.run(_many(engine, 12))
    for number, answer in enumerate(answers):
        assert answer["generated_text"] == " ".join([f"n{number} b c"] * 4)
    assert engine.metric("tgi_request_success") == 12
    until(lambda: engine.metric("tgi_batch_current_size") == 0 and engine.metric("tgi_queue_size") == 0)


def test_what_finds_no_room_in_the_cache_waits_in_the_engine(start_echo: StartEcho, tmp_path: Path) -> None:
    slow = Measured(0.0, 0.0, 0.0, {1: 0.05}, 8)
    told = Told(None, None, 60, None, 100, 200)
    path = tmp_path / "small.toml"
    path.write_text(toml("small", "A small cache", slow, told), encoding="utf-8")
    engine = start_echo("--speed", str(path)).wait_ready()
    with ThreadPoolExecutor(2) as pool:  # 43 tokens each, where 60 have room
        answers = [pool.submit(engine.generate, f"n{number} b c", max_new_tokens=40) for number in range(2)]
        until(lambda: engine.metric("tgi_batch_current_size") == 1 and engine.metric("tgi_queue_size") == 1)
        assert [answer.result()["details"]["generated_tokens"] for answer in answers] == [40, 40]


async def _many(engine: Engine, count: int) -> list[dict[str, Any]]:
    calls = (
        asyncio.to_thread(engine.generate, f"n{number} b c", max_new_tokens=12) for number in range(count)
    )
    return list(await asyncio.gather(*calls))
