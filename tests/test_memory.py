"""The ledger of device memory: what it believes after which events, and waiting for room."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.memory import (
    Ledger,
    MemoryNotFree,
    Reading,
    format_bytes,
    out_of_memory,
    wait_for_release,
    wait_for_room,
)

MIB = 2**20
GIB = 2**30
CARD = 12 * GIB
DECLARED = {"llama3": 10 * GIB, "qwen2": 10 * GIB, "small": 2 * GIB}


def gib(value: float) -> int:
    return round(value * GIB)


def card(used: float, total: float = 12) -> Reading:
    return Reading(gib(total), gib(used))


def ledger(capacity: float = 12, **declared: float) -> Ledger:
    figures = {model: gib(size) for model, size in declared.items()} or DECLARED
    return Ledger("gpu0", gib(capacity), figures)


def run_start(
    books: Ledger,
    model: str,
    before: float,
    after: float,
    resident: Sequence[str] = (),
    total: float = 12,
) -> int | None:
    books.before_start(model, card(before, total), resident)
    return books.after_start(model, card(after, total))


# What is learnt.


@pytest.mark.parametrize(
    ("before", "after", "holds", "needs_next"),
    [
        (0.5, 6.5, 6.0, 6.0),
        (0.5, 8.4, 7.9, 7.9),
        (0.5, 11.4, 10.9, 7.0),
        (0.0, 9.7, 9.7, 7.0),
    ],
    ids=["less than declared", "a little more", "filled the card", "just filled it"],
)
def test_start_shows_what_is_held_and_fillers_still_need_what_was_declared(
    before: float, after: float, holds: float, needs_next: float
) -> None:
    books = ledger(model=7)
    assert run_start(books, "model", before, after) == gib(after) - gib(before)
    assert books.footprint("model") == pytest.approx(gib(holds), abs=1)
    books.stopped("model")
    assert books.footprint("model") == pytest.approx(gib(needs_next), abs=1)


def test_far_more_than_declared_on_a_large_card_is_taken_for_a_filler() -> None:
    books = ledger(24, model=9)
    run_start(books, "model", 0.5, 18.3, total=24)
    assert books.footprint("model") == pytest.approx(gib(17.8), abs=1)
    books.stopped("model")
    assert books.footprint("model") == gib(9)


def test_model_that_filled_the_card_still_fits_when_the_desktop_grew() -> None:
    books = ledger()
    run_start(books, "qwen2", 0.4, 11.6)
    books.stopped("qwen2")
    books.settled("qwen2")
    assert books.room_for("qwen2", card(1.6), ()).fits
    assert not books.room_for("qwen2", card(2.1), ()).fits


def test_fillers_that_were_declared_small_find_their_place_beside_each_other() -> None:
    books = ledger(24, first=10.5, second=10)
    run_start(books, "second", 0.5, 20.2, total=24)  # alone it takes nearly everything
    assert not books.room_for("first", card(20.2, 24), ["second"]).fits
    books.stopped("second")
    run_start(books, "first", 0.5, 10.8, total=24)
    room = books.room_for("second", card(10.8, 24), ["first"])
    assert room.fits
    assert room.needed_bytes == gib(10)
    run_start(books, "second", 10.8, 20.2, ["first"], total=24)
    assert books.footprint("second") == pytest.approx(gib(9.4), abs=1)


def test_model_that_fills_what_is_left_does_not_shrink_with_every_start() -> None:
    books = ledger(24, small=3, filler=10)
    run_start(books, "small", 0, 9, total=24)
    run_start(books, "filler", 9, 20, ["small"], total=24)
    for _ in range(5):
        books.stopped("filler")
        assert books.footprint("filler") == gib(10)
        run_start(books, "filler", 10.5, 20, ["small"], total=24)


def test_start_that_ran_out_of_memory_beside_others_gets_what_it_took_before() -> None:
    books = ledger(model=6, small=4)
    run_start(books, "model", 0.5, 10.2)  # 85 % of the card: looks like a filler, and is not
    books.stopped("model")
    run_start(books, "small", 0.5, 4.5)
    assert books.room_for("model", card(4.5), ["small"]).fits
    books.before_start("model", card(4.5), ["small"])
    books.start_failed("model", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
    room = books.room_for("model", card(4.5), ["small"])
    assert not room.fits
    assert room.needed_bytes == pytest.approx(gib(9.7), abs=1)
    assert books.room_for("model", card(0.5), ()).fits


def test_unmeasured_model_that_ran_out_beside_others_gets_the_device_to_itself() -> None:
    books = ledger(model=6, small=4)
    run_start(books, "small", 0.5, 4.5)
    books.before_start("model", card(4.5), ["small"])
    books.start_failed("model", "Not enough memory to handle 4096 prefill tokens.")
    assert not books.room_for("model", card(4.5), ["small"]).fits
    assert books.room_for("model", card(0.5), ()).fits  # the desktop's share is not asked for
    run_start(books, "model", 0.5, 11.5)
    books.stopped("model")
    assert not books.room_for("model", card(4.5), ["small"]).fits  # still: it never did with so little
    run_start(books, "model", 4.5, 11.9, ["small"])
    books.stopped("model")
    assert books.room_for("model", card(5), ["small"]).fits  # now it has


@pytest.mark.parametrize(
    ("reason", "resident"),
    [("No such file or directory", ["small"]), ("CUDA out of memory", [])],
    ids=["another reason", "alone"],
)
def test_other_failed_starts_change_no_figure(reason: str, resident: list[str]) -> None:
    books = ledger()
    books.before_start("qwen2", card(1), resident)
    books.start_failed("qwen2", reason)
    assert books.footprint("qwen2") == DECLARED["qwen2"]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("RuntimeError: Not enough memory to handle 4096 prefill tokens. You need to decrease", True),
        ("torch.OutOfMemoryError: CUDA out of memory", True),
        ("CUDA_ERROR_OUT_OF_MEMORY", True),
        ("llama_kv_cache: failed to allocate buffer for kv cache", True),
        ("ValueError: No available memory for the cache blocks", True),
        ("Free memory on device (3/12 GiB) on startup is less than desired", True),
        ("MemoryError: cannot allocate memory", True),
        ("FileNotFoundError: model.safetensors", False),
        ("Killed by signal 15", False),
        ("", False),
    ],
)
def test_last_words_of_engines_that_ran_out_of_memory_are_known(text: str, verdict: bool) -> None:
    assert out_of_memory(text) is verdict


def test_difference_is_not_learnt_when_use_fell(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    books = ledger()
    assert run_start(books, "qwen2", 6, 5) is None
    assert books.footprint("qwen2") == DECLARED["qwen2"]
    assert "not learnt" in caplog.text
    assert "somebody else gave memory back" in caplog.text


def test_difference_is_not_learnt_when_two_of_ours_start_at_once() -> None:
    books = ledger(24, one=4, two=5)
    books.before_start("one", card(1, 24))
    books.before_start("two", card(2, 24), ["one"])
    assert books.after_start("one", card(7, 24)) is None
    assert books.after_start("two", card(10, 24)) is None
    assert (books.footprint("one"), books.footprint("two")) == (gib(4), gib(5))


def test_difference_is_not_learnt_when_another_of_ours_stopped_meanwhile() -> None:
    books = ledger(24, one=4, two=5)
    run_start(books, "one", 1, 5, total=24)
    books.before_start("two", card(5, 24), ["one"])
    books.stopped("one")
    assert books.after_start("two", card(6, 24)) is None


@pytest.mark.parametrize(("after", "learnt"), [(8.0, True), (3.5, False), (11.9, False)])
def test_implausible_difference_is_not_learnt_while_the_neighbour_moves(after: float, learnt: bool) -> None:
    books = ledger(model=4)
    books.observe(card(0.5), ())
    books.observe(card(2.5), ())
    taken = run_start(books, "model", 2.5, after)
    assert (taken is not None) is learnt
    assert books.footprint("model") == (gib(5.5) if learnt else gib(4))


def test_neighbour_that_moved_long_ago_does_not_spoil_later_starts() -> None:
    books = ledger(model=4)
    books.observe(card(0.5), ())
    books.observe(card(2.5), ())
    run_start(books, "model", 2.5, 8)
    books.stopped("model")
    assert run_start(books, "model", 2.5, 11.9) == gib(11.9) - gib(2.5)


def test_what_a_start_takes_is_learnt_anew_each_time() -> None:
    books = ledger(model=6)
    assert run_start(books, "model", 0, 5) == gib(5)
    books.stopped("model")
    assert run_start(books, "model", 0, 7) == gib(7)
    books.stopped("model")
    assert books.footprint("model") == gib(7)


def test_more_than_the_budget_is_never_needed_unless_declared() -> None:
    books = ledger(8, model=6, huge=9)
    run_start(books, "model", 0, 8.9, total=24)
    assert books.footprint("model") == gib(8)
    books.stopped("model")
    assert books.room_for("model", card(0, 24), ()).fits
    assert books.room_for("huge", card(0, 24), ()).missing_bytes == gib(1)


def test_card_that_is_a_little_smaller_than_its_name_holds_a_model_declared_for_all_of_it() -> None:
    books = ledger(12, model=12)
    reading = Reading(12282 * MIB, 0)
    assert books.observe(reading, ()) == 6 * MIB
    assert books.room_for("model", reading, ()).fits


# Main memory, where the reader tells ours apart.


def test_told_apart_figures_are_learnt_as_they_are_and_grow_to_the_peak() -> None:
    books = ledger(4, one=1, two=2)
    books.before_start("one", Reading(gib(4), 0, {}))
    assert books.after_start("one", Reading(gib(4), gib(3.5), {"one": gib(1.5)})) == gib(1.5)
    books.observe(Reading(gib(4), gib(3), {"one": gib(3)}), ["one"])
    books.observe(Reading(gib(4), gib(2), {"one": gib(2)}), ["one"])
    assert books.footprint("one") == gib(3)
    books.stopped("one")
    assert books.footprint("one") == gib(3)


def test_half_loaded_engine_counts_as_declared() -> None:
    books = ledger(4, one=2)
    books.before_start("one", Reading(gib(4), 0, {}))
    books.observe(Reading(gib(4), gib(0.1), {"one": gib(0.1)}), ["one"])
    assert books.footprint("one") == gib(2)


def test_two_starts_at_once_are_learnt_where_the_reader_tells_them_apart() -> None:
    books = ledger(8, one=1, two=2)
    books.before_start("one", Reading(gib(8), 0, {}))
    books.before_start("two", Reading(gib(8), 0, {}), ["one"])
    reading = Reading(gib(8), gib(5), {"one": gib(2), "two": gib(3)})
    assert books.after_start("one", reading) == gib(2)
    assert books.after_start("two", reading) == gib(3)


def test_stopped_engine_that_still_runs_is_seen_where_the_reader_tells_it_apart() -> None:
    books = ledger(4, one=1)
    books.stopped("one")
    assert not books.released("one", Reading(gib(4), gib(1), {"one": gib(1)}), ())
    assert books.released("one", Reading(gib(4), 0, {}), ())


# Neighbours.


def test_all_use_is_the_neighbours_while_none_of_ours_is_resident() -> None:
    assert ledger().neighbour_bytes(card(4.8), ()) == gib(4.8)


def test_game_that_starts_beside_a_resident_model_is_seen() -> None:
    books = ledger(24)
    run_start(books, "qwen2", 0.5, 10.5, total=24)
    assert books.observe(card(10.6, 24), ["qwen2"]) == gib(0.5)  # its own growth, as far as one can tell
    assert books.observe(card(15.5, 24), ["qwen2"]) == gib(5.5)
    assert not books.room_for("llama3", card(15.5, 24), ["qwen2"]).fits
    assert books.observe(card(10.2, 24), ["qwen2"]) == pytest.approx(gib(0.2), abs=1)


def test_memory_of_an_engine_whose_start_was_not_seen_is_not_blamed_on_neighbours() -> None:
    books = ledger()
    assert books.observe(card(11.7), ["qwen2"]) == 0  # declared 10: the rest may well be its own
    books.stopped("qwen2")
    books.settled("qwen2")
    assert books.observe(card(0.5), ()) == gib(0.5)


def test_memory_of_a_model_being_loaded_is_not_blamed_on_neighbours() -> None:
    books = ledger()
    books.before_start("qwen2", card(0.5))
    assert books.observe(card(7), ()) == gib(0.5)


def test_memory_of_a_stopped_model_is_not_blamed_on_neighbours_while_it_comes_back() -> None:
    books = ledger()
    run_start(books, "qwen2", 0.5, 11.5)
    books.stopped("qwen2")
    assert books.observe(card(11.5), ()) == gib(0.5)
    assert not books.released("qwen2", card(11.5), ())
    assert books.released("qwen2", card(0.6), ())
    assert books.observe(card(0.6), ()) == gib(0.6)


def test_game_that_starts_after_the_memory_came_back_is_a_neighbour() -> None:
    books = ledger()
    run_start(books, "qwen2", 0.5, 11.5)
    books.stopped("qwen2")
    books.observe(card(0.5), ())
    assert books.observe(card(9), ()) == gib(9)


def test_what_has_not_come_back_when_the_next_start_begins_belongs_to_others() -> None:
    books = ledger(24)
    run_start(books, "qwen2", 0.5, 10.5, total=24)
    books.stopped("qwen2")
    run_start(books, "small", 9, 11, total=24)
    assert books.neighbour_bytes(card(11, 24), ["small"]) == gib(9)


def test_neighbour_that_grew_a_little_meanwhile_does_not_hold_up_a_release() -> None:
    books = ledger()
    run_start(books, "qwen2", 0.5, 11.5)
    books.stopped("qwen2")
    assert books.released("qwen2", card(2.0), ())


def test_engine_that_died_has_nothing_left_to_release() -> None:
    books = ledger()
    run_start(books, "qwen2", 0.5, 11.5)
    books.stopped("qwen2")
    assert books.released("qwen2", card(0.5), ())


def test_memory_beyond_the_budget_is_not_taken_from_ours() -> None:
    books = ledger(12)
    assert books.encroachment_bytes(card(5, 24), ()) == 0
    assert books.encroachment_bytes(card(14, 24), ()) == gib(2)
    assert books.encroachment_bytes(card(24, 24), ()) == gib(12)


# Room.


@pytest.mark.parametrize(
    ("capacity", "total", "used", "resident", "free", "fits"),
    [
        (12, 12, 0.5, [], 11.5, True),
        (12, 12, 2.5, [], 9.5, False),
        (10, 24, 0.5, [], 10, True),
        (9, 24, 0.5, [], 9, False),
        (24, 24, 10.5, ["llama3"], 13.5, True),
        (18, 24, 10.5, ["llama3"], 8, False),
        (24, 24, 16, ["llama3"], 8, False),
        (24, 24, 3, ["llama3"], 14, True),
        (12, 12, 12, ["llama3", "small"], 0, False),
    ],
)
def test_room_respects_the_budget_and_the_real_free_memory(
    capacity: float, total: float, used: float, resident: list[str], free: float, fits: bool
) -> None:
    room = ledger(capacity).room_for("qwen2", card(used, total), resident)
    assert room.free_bytes == gib(free)
    assert room.needed_bytes == gib(10)
    assert room.fits is fits
    assert room.missing_bytes == max(0, gib(10) - gib(free))


def test_model_is_not_in_its_own_way() -> None:
    assert ledger().room_for("qwen2", card(1), ["qwen2"]).fits


def test_without_a_reading_declared_figures_are_trusted_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    books = ledger()
    assert books.room_for("small", None, ["llama3"]).fits
    assert not books.room_for("qwen2", None, ["llama3"]).fits
    books.before_start("small", None, ["llama3"])
    assert books.after_start("small", None) is None
    books.observe(None, ["llama3", "small"])
    assert books.footprint("small") == DECLARED["small"]
    assert [record.getMessage() for record in caplog.records] == [
        "gpu0 is not measured: the memory declared for its models is trusted"
    ]


# A world to check it all against.

MODELS = ("a", "b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), st.sampled_from(MODELS), st.floats(0.1, 20)),
        st.tuples(st.just("fail"), st.sampled_from(MODELS), st.floats(0.1, 20)),
        st.tuples(st.just("stop"), st.sampled_from(MODELS), st.just(0.0)),
        st.tuples(st.just("neighbour"), st.just(""), st.floats(0, 20)),
        st.tuples(st.just("look"), st.just(""), st.just(0.0)),
    ),
    max_size=30,
)


class World:
    """A card with engines and a neighbour. The neighbour stays still during starts."""

    def __init__(self, total: float) -> None:
        self.total = gib(total)
        self.engines: dict[str, int] = {}
        self.neighbour = 0

    @property
    def free(self) -> int:
        return self.total - self.neighbour - sum(self.engines.values())

    def reading(self) -> Reading:
        return Reading(self.total, self.total - self.free)

    def move(self, size: float) -> None:
        self.neighbour = min(gib(size), self.free + self.neighbour)


def one_step(world: World, books: Ledger, what: str, model: str, size: float) -> None:
    if what == "neighbour":
        world.move(size)
    elif what == "stop" and model in world.engines:
        del world.engines[model]
        books.stopped(model)
    elif what in ("start", "fail") and model not in world.engines:
        room = books.room_for(model, world.reading(), tuple(world.engines))
        if not room.fits:
            return
        books.before_start(model, world.reading(), tuple(world.engines))
        if what == "fail" or gib(size) > world.free:
            books.start_failed(model, "CUDA out of memory")
            return
        world.engines[model] = gib(size)
        learnt = books.after_start(model, world.reading())
        assert learnt in (None, gib(size))
    books.observe(world.reading(), tuple(world.engines))


@settings(deadline=None)
@given(steps=STEPS, total=st.floats(4, 24), capacity=st.floats(2, 24))
def test_figures_stay_within_their_bounds_whatever_happens(
    steps: list[tuple[str, str, float]], total: float, capacity: float
) -> None:
    world = World(total)
    declared = {"a": gib(1), "b": gib(3), "c": gib(8)}
    books = Ledger("gpu0", gib(capacity), declared)
    for what, model, size in steps:
        one_step(world, books, what, model, size)
        reading, resident = world.reading(), tuple(world.engines)
        assert 0 <= books.neighbour_bytes(reading, resident) <= reading.used_bytes
        assert 0 <= books.encroachment_bytes(reading, resident) <= books.capacity_bytes
        for name in MODELS:
            room = books.room_for(name, reading, resident)
            assert 0 <= room.free_bytes <= min(books.capacity_bytes, reading.free_bytes)
            assert room.fits == (room.needed_bytes <= room.free_bytes)
            assert 0 < books.footprint(name) <= max(books.capacity_bytes, declared[name])
            assert books.needed_bytes(name) <= max(books.capacity_bytes, declared[name])


@settings(deadline=None)
@given(steps=STEPS, total=st.floats(8, 24))
def test_model_that_is_declared_small_enough_fits_again_once_the_device_is_empty(
    steps: list[tuple[str, str, float]], total: float
) -> None:
    world = World(total)
    books = Ledger("gpu0", gib(total), {"a": gib(1), "b": gib(3), "c": gib(8)})
    for what, model, size in steps:
        one_step(world, books, what, model, size)
    for model in tuple(world.engines):
        one_step(world, books, "stop", model, 0)
    world.move(0)
    books.observe(world.reading(), ())
    for model in MODELS:
        assert books.room_for(model, world.reading(), ()).fits


# Waiting.


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class TimedReader:
    """Gives what a function of the time says."""

    def __init__(self, time: FakeTime, at: Callable[[float], Reading | None]) -> None:
        self._time = time
        self._at = at

    async def read(self) -> Reading | None:
        return self._at(self._time.now - 100.0)


async def test_room_that_is_there_is_not_waited_for() -> None:
    time = FakeTime()
    reader = TimedReader(time, lambda _: card(0.5))
    reading = await wait_for_room(ledger(), reader, "qwen2", (), 30, clock=time.clock, sleep=time.sleep)
    assert reading == card(0.5)
    assert time.slept == []


async def test_room_is_waited_for_until_it_is_really_there() -> None:
    time = FakeTime()
    reader = TimedReader(time, lambda t: card(11.5 if t < 2 else 0.5))
    reading = await wait_for_room(
        ledger(), reader, "qwen2", (), 30, poll_s=0.5, clock=time.clock, sleep=time.sleep
    )
    assert reading == card(0.5)
    assert time.slept == [0.5] * 4


async def test_room_that_does_not_come_is_an_error_with_figures() -> None:
    time = FakeTime()
    reader = TimedReader(time, lambda _: card(6.8))
    books = ledger()
    run_start(books, "small", 4.8, 6.8)
    with pytest.raises(MemoryNotFree) as caught:
        await wait_for_room(
            books, reader, "qwen2", ["small"], 30, poll_s=7, clock=time.clock, sleep=time.sleep
        )
    assert caught.value.message == (
        "gpu0: qwen2 needs 10.0 GiB; 5.2 GiB of 12.0 GiB are free after 30 s; "
        "ours: small 2.0 GiB; others use 4.8 GiB."
    )
    assert caught.value.hint == "Close what uses gpu0, or lower the model's limits."
    assert (caught.value.status, caught.value.type) == (503, "memory_not_free")
    assert sum(time.slept) == 30
    assert time.slept[-1] == 2


async def test_error_without_ours_and_without_reading_says_so() -> None:
    time = FakeTime()
    with pytest.raises(MemoryNotFree, match=r"ours: none; others use 4\.8 GiB$"):
        await wait_for_room(
            ledger(), TimedReader(time, lambda _: card(4.8)), "qwen2", (), 0, clock=time.clock
        )
    with pytest.raises(MemoryNotFree, match=r"are free after 0 s; ours: llama3 10\.0 GiB$"):
        await wait_for_room(ledger(), None, "qwen2", ["llama3"], 0, clock=time.clock)


async def test_without_a_reader_declared_figures_let_it_start_at_once() -> None:
    time = FakeTime()
    assert await wait_for_room(ledger(), None, "qwen2", (), 30, clock=time.clock, sleep=time.sleep) is None
    assert time.slept == []


async def test_reader_that_fails_while_waiting_leaves_it_to_declared_figures() -> None:
    time = FakeTime()
    reader = TimedReader(time, lambda t: card(11) if t < 1 else None)
    assert await wait_for_room(ledger(), reader, "qwen2", (), 30, clock=time.clock, sleep=time.sleep) is None
    assert sum(time.slept) == 1


def resident_qwen2() -> Ledger:
    books = ledger()
    run_start(books, "qwen2", 0.5, 11.5)
    books.stopped("qwen2")
    return books


async def test_release_is_over_when_use_is_down_and_still() -> None:
    time, books = FakeTime(), resident_qwen2()
    levels = {0: 11.5, 1: 11.5, 2: 4.0, 3: 1.0, 4: 0.5, 5: 0.5}
    reader = TimedReader(time, lambda t: card(levels[round(t)]))
    await wait_for_release(books, reader, "qwen2", (), 30, poll_s=1, clock=time.clock, sleep=time.sleep)
    assert time.slept == [1] * 5
    assert books.neighbour_bytes(card(0.5), ()) == gib(0.5)


async def test_release_that_does_not_come_is_an_error_with_figures() -> None:
    time, books = FakeTime(), resident_qwen2()
    reader = TimedReader(time, lambda _: card(11.5))
    with pytest.raises(
        MemoryNotFree, match=r"qwen2 needs 10\.0 GiB; 512\.0 MiB of 12\.0 GiB are free after 9 s"
    ) as caught:
        await wait_for_release(books, reader, "qwen2", (), 9, clock=time.clock, sleep=time.sleep)
    assert caught.value.hint == "qwen2 was stopped: look for a process of it that still runs on gpu0."


async def test_game_that_took_the_place_at_once_does_not_keep_a_model_stopping_for_ever() -> None:
    time = FakeTime()
    books = ledger(24)
    run_start(books, "qwen2", 0.5, 10.5, total=24)
    books.stopped("qwen2")
    reader = TimedReader(time, lambda _: card(9, 24))
    await wait_for_release(books, reader, "qwen2", (), 5, clock=time.clock, sleep=time.sleep)
    assert sum(time.slept) == 5
    assert books.neighbour_bytes(card(9, 24), ()) == gib(9)


async def test_release_of_an_engine_whose_start_was_not_seen_ends_when_it_would_fit_again() -> None:
    time = FakeTime()
    books = ledger()
    books.observe(card(11.5), ["qwen2"])
    books.stopped("qwen2")
    reader = TimedReader(time, lambda t: card(11.5 if t < 1 else 0.6))
    await wait_for_release(books, reader, "qwen2", (), 30, clock=time.clock, sleep=time.sleep)
    assert sum(time.slept) == 1.25
    assert books.observe(card(0.6), ()) == gib(0.6)


async def test_release_without_a_reader_is_believed() -> None:
    time, books = FakeTime(), resident_qwen2()
    await wait_for_release(books, None, "qwen2", (), 30, clock=time.clock, sleep=time.sleep)
    assert time.slept == []


# Words.


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (512 * MIB, "512.0 MiB"),
        (MIB * 1024 - 1, "1.0 GiB"),
        (10 * GIB, "10.0 GiB"),
        (round(7.24 * GIB), "7.2 GiB"),
        (3 * 1024 * GIB, "3.0 TiB"),
    ],
)
def test_bytes_are_written_for_people(count: int, text: str) -> None:
    assert format_bytes(count) == text
