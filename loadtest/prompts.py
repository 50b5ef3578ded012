"""What a simulated user asks, drawn from a seed: the same seed gives the same requests, in the same order.

Lengths are log-normal, as lengths of texts by people are: most are short, a few are long. Answers have a
median of about 110 tokens and a mean of about 130, so that 100 users who pause for 2 s ask about 20
times a second of a card that answers in 3 s. Texts to summarise reach about a thousand tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loadtest.corpus import FOLLOW_UPS, QUESTIONS, REQUESTS, SENTENCES, Language

SCENARIOS: Final[Mapping[str, float]] = {"qa": 0.4, "general": 0.3, "summary": 0.2, "rewrite": 0.1}
"""The scenarios of the gateway, by how often they are asked for."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A log-normal distribution, cut off at both ends. ``spread`` is the sigma of the logarithm."""

    median: float
    spread: float
    least: int
    most: int

    def draw(self, dice: random.Random) -> int:
        drawn = round(math.exp(dice.gauss(math.log(self.median), self.spread)))
        return min(self.most, max(self.least, drawn))


ANSWER_TOKENS: Final[Mapping[str, Lengths]] = {
    "qa": Lengths(90, 0.5, 16, 384),
    "general": Lengths(140, 0.5, 16, 512),
    "summary": Lengths(110, 0.4, 32, 384),
    "rewrite": Lengths(120, 0.4, 32, 384),
}
SENTENCES_GIVEN: Final[Mapping[str, Lengths]] = {
    "qa": Lengths(1, 0.8, 0, 6),
    "general": Lengths(3, 0.7, 1, 16),
    "summary": Lengths(14, 0.6, 5, 56),
    "rewrite": Lengths(4, 0.5, 1, 14),
}


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: the text goes into the scenario, the answer has at most ``max_new_tokens``."""

    scenario: str
    language: Language
    text: str
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Target:
    """A model under test: its id, its share of the requests, the languages it speaks (none said: all)."""

    model: str
    weight: float = 1.0
    languages: tuple[str, ...] = ()


class Prompts:
    """The requests of one user. ``who`` tells users of one seed apart."""

    def __init__(self, seed: int, who: str, targets: Sequence[Target]) -> None:
        if not targets:
            raise ValueError("at least one model is needed")
        self._dice = random.Random(f"{seed}/{who}")
        self._targets = targets

    def target(self) -> Target:
        """Which model is asked, by weight."""
        return self._dice.choices(self._targets, [one.weight for one in self._targets])[0]

    def chance(self, share: float) -> bool:
        return self._dice.random() < share

    def between(self, low: float, high: float) -> float:
        return self._dice.uniform(low, high)

    def ask(self, target: Target, scenario: str | None = None) -> Ask:
        """A question of its own, in a language that the model speaks."""
        dice = self._dice
        name = scenario or dice.choices(list(SCENARIOS), list(SCENARIOS.values()))[0]
        language = self._language(target)
        given = self._passage(language, SENTENCES_GIVEN[name].draw(dice))
        text = given
        if name == "qa":
            text = _joined(language, given, dice.choice(QUESTIONS[language]))
        elif name == "general":
            text = _joined(language, given, dice.choice(REQUESTS[language]))
        return Ask(name, language, text, ANSWER_TOKENS[name].draw(dice))

    def follow_up(self, language: Language) -> Ask:
        """The next turn of a chat."""
        text = self._dice.choice(FOLLOW_UPS[language])
        return Ask("general", language, text, ANSWER_TOKENS["general"].draw(self._dice))

    def _language(self, target: Target) -> Language:
        spoken: list[Language] = ["en", "zh"]
        if target.languages:
            spoken = [one for one in spoken if one in target.languages] or ["en"]
        return self._dice.choice(spoken)

    def _passage(self, language: Language, sentences: int) -> str:
        """So many sentences in a row, from a random place: they are stories, and go round."""
        source = SENTENCES[language]
        first = self._dice.randrange(len(source))
        chosen = [source[(first + k) % len(source)] for k in range(sentences)]
        return ("" if language == "zh" else " ").join(chosen)


def _joined(language: Language, *parts: str) -> str:
    return ("\n" if language == "zh" else "\n\n").join(part for part in parts if part)
