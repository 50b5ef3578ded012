"""Who asks for what, when. Every trace is a function of a seed alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.switching.parameters import FLEET, LLAMA, QWEN, Engine
from benchmarks.switching.simulator import Ask, Client

LENGTH_S = 3600.0
PAIR = (QWEN, LLAMA)


@dataclass(slots=True)
class Trace:
    name: str
    about: str
    engines: tuple[Engine, ...]
    asks: list[Ask] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)


def ask(rng: random.Random, at: float, model: str, patience_s: float | None = None) -> Ask:
    """A chat turn: a prompt of some hundred tokens, an answer of about 250, at most 600."""
    prompt = min(1000, int(rng.lognormvariate(5.5, 0.7)))
    answer = min(600, max(10, int(rng.lognormvariate(5.3, 0.6))))
    return Ask(at, model, prompt, answer, patience_s)


@dataclass(slots=True)
class Looping:
    """Asks, waits for the answer, thinks, asks again; goes through ``models`` in turn."""

    rng: random.Random
    models: cycle[str]
    think_s: float
    first_at: float
    patience_s: float | None = None
    new_tokens: int | None = None
    asked: bool = False

    def next(self, now: float) -> Ask | None:
        pause = self.rng.expovariate(1 / self.think_s) if self.asked else self.first_at
        self.asked = True
        at = now + pause
        if at > LENGTH_S:
            return None
        item = ask(self.rng, at, next(self.models), self.patience_s)
        if self.new_tokens is not None:
            item.new_tokens = self.new_tokens
        return item


def poisson(rng: random.Random, rates: dict[str, float]) -> list[Ask]:
    asks = []
    for model, rate in rates.items():
        at = rng.expovariate(rate)
        while at < LENGTH_S:
            asks.append(ask(rng, at, model))
            at += rng.expovariate(rate)
    return asks


def alternating(seed: int) -> Trace:
    rng = random.Random(seed)
    names = [engine.name for engine in PAIR]
    clients: list[Client] = [
        Looping(rng, cycle(names if n % 2 == 0 else names[::-1]), think_s=5, first_at=n * 2.0)
        for n in range(6)
    ]
    return Trace("alternating", "six clients, each in turn one model and the other", PAIR, clients=clients)


def one_by_one(seed: int) -> Trace:
    rng = random.Random(seed)
    client = Looping(rng, cycle([QWEN.name, LLAMA.name]), think_s=5, first_at=0)
    return Trace("one by one", "a single client, in turn one model and the other", PAIR, clients=[client])


def bursty(seed: int) -> Trace:
    rng = random.Random(seed)
    asks, at = [], 0.0
    while at < LENGTH_S:
        model = rng.choice(PAIR).name
        asks += [ask(rng, at + rng.uniform(0, 20), model) for _ in range(rng.randint(5, 25))]
        at += rng.expovariate(1 / 40)
    return Trace("bursty", "5 to 25 requests for one model within 20 s, such a burst every 40 s", PAIR, asks)


def even(seed: int) -> Trace:
    rates = {QWEN.name: 0.15, LLAMA.name: 0.15}
    return Trace("Poisson 50/50", "0.3 requests/s", PAIR, poisson(random.Random(seed), rates))


def busy(seed: int) -> Trace:
    rates = {QWEN.name: 0.6, LLAMA.name: 0.6}
    return Trace("Poisson 50/50, busy", "1.2 requests/s", PAIR, poisson(random.Random(seed), rates))


def skewed(seed: int) -> Trace:
    rates = {QWEN.name: 0.9, LLAMA.name: 0.1}
    return Trace(
        "Poisson 90/10", "1 request/s, nine in ten for one model", PAIR, poisson(random.Random(seed), rates)
    )


def impatient(seed: int) -> Trace:
    rng = random.Random(seed)
    long_ones: list[Client] = [
        Looping(rng, cycle([QWEN.name]), think_s=1, first_at=n * 3.0, new_tokens=1500) for n in range(3)
    ]
    one = Looping(rng, cycle([LLAMA.name]), think_s=120, first_at=60, patience_s=120)
    about = (
        "three streams of 1,500 tokens without end; one client of the other model that gives up after 120 s"
    )
    return Trace("long and impatient", about, PAIR, clients=[*long_ones, one])


def many(seed: int) -> Trace:
    rng = random.Random(seed)
    rates = {engine.name: 0.4 / (rank + 1) for rank, engine in enumerate(FLEET)}
    about = "five models of 2.5 to 7 GB, popularity 1, 1/2, 1/3, 1/4, 1/5; some sets fit together"
    return Trace("many models", about, FLEET, poisson(rng, rates))


TRACES: tuple[Callable[[int], Trace], ...] = (
    one_by_one,
    alternating,
    bursty,
    even,
    busy,
    skewed,
    impatient,
    many,
)
