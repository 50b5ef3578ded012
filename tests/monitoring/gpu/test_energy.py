"""Energy of cards, and what it is spent on."""

from __future__ import annotations

import pytest

from gpu_sidecar.card import Card
from gpu_sidecar.driver import Round
from gpu_sidecar.energy import EnergyMeter, Spent
from gpu_sidecar.gateway import Counts
from gpu_sidecar.ledger import EnergyLedger


def card(energy_j: float | None = None, power_w: float | None = None, uuid: str = "a") -> Card:
    return Card(0, uuid, (), (), power_w, energy_j)


def spent(meter: EnergyMeter, at_s: float, *cards: Card) -> tuple[float, bool] | None:
    found = meter.add(Round(at_s, cards, ()))
    return None if found is None else (found.joules, found.whole)


def test_first_reading_of_a_counter_is_where_counting_begins() -> None:
    meter = EnergyMeter()
    assert spent(meter, 0, card(energy_j=1e6)) is None
    assert meter.total_j == 0
    assert spent(meter, 2, card(energy_j=1e6 + 500)) == (500, True)
    assert meter.total_j == 500


def test_power_is_added_up_by_trapezoids() -> None:
    meter = EnergyMeter()
    spent(meter, 0, card(power_w=100))
    assert spent(meter, 2, card(power_w=300)) == (400, True)
    assert spent(meter, 3, card(power_w=300)) == (300, True)
    assert [account.source for account in meter.accounts] == ["power"]


def test_power_is_not_carried_over_a_long_absence() -> None:
    meter = EnergyMeter()
    spent(meter, 0, card(power_w=100))
    assert spent(meter, 1) == (0, False)
    assert spent(meter, 60, card(power_w=100)) == (0, False)
    assert spent(meter, 61, card(power_w=100)) == (100, True)


def test_counter_that_went_on_while_its_card_was_away_is_added_but_belongs_to_no_interval() -> None:
    meter = EnergyMeter()
    spent(meter, 0, card(energy_j=0))
    assert spent(meter, 2) == (0, False)
    assert spent(meter, 4, card(energy_j=900)) == (900, False)
    assert meter.total_j == 900


def test_counter_that_begins_anew_is_added_from_zero_but_belongs_to_no_interval() -> None:
    meter = EnergyMeter()
    spent(meter, 0, card(energy_j=5000))
    assert spent(meter, 2, card(energy_j=40)) == (40, False)
    assert spent(meter, 4, card(energy_j=50)) == (10, True)


def test_card_that_once_told_its_counter_is_never_added_up_from_power() -> None:
    meter = EnergyMeter()
    spent(meter, 0, card(energy_j=0, power_w=100))
    assert spent(meter, 2, card(power_w=100)) == (0, False)
    assert spent(meter, 4, card(energy_j=400, power_w=100)) == (400, False)


def test_card_that_tells_neither_does_not_spoil_the_others() -> None:
    meter = EnergyMeter()
    silent = card(uuid="b")
    spent(meter, 0, card(energy_j=0), silent)
    assert spent(meter, 2, card(energy_j=100), silent) == (100, True)


def test_energy_of_all_cards_is_added_and_known_only_with_all_of_them() -> None:
    meter = EnergyMeter()
    spent(meter, 0, card(energy_j=0), card(energy_j=0, uuid="b"))
    assert spent(meter, 2, card(energy_j=10), card(energy_j=5, uuid="b")) == (15, True)
    assert spent(meter, 4, card(energy_j=20)) == (10, False)


def counts(
    tokens: float = 0, in_flight: float = 0, switches: float = 0, lost_s: float = 0, model: str = "qwen2"
) -> Counts:
    return Counts(tokens, in_flight, {model: switches}, {model: lost_s})


def ledger_of(
    *steps: tuple[float, Counts | None], step_s: float = 2.0, window_s: float = 60.0
) -> EnergyLedger:
    """A ledger after readings that are ``step_s`` apart, each with the joules since the one before."""
    ledger = EnergyLedger(window_s)
    for number, (joules, counted) in enumerate(steps):
        ledger.add(Spent((number - 1) * step_s, number * step_s, joules, whole=True), counted)
    return ledger


def test_joules_per_token_are_the_windows_energy_by_its_tokens_with_idle_energy_told_apart() -> None:
    ledger = ledger_of(
        (0, counts(100)), (50, counts(100)), (300, counts(140)), (300, counts(200)), (50, counts(200))
    )
    balance = ledger.balance(8)
    assert balance is not None
    assert (balance.serving_j, balance.switching_j, balance.idle_j) == (600, 0, 100)
    assert balance.joules_per_token == {"all": 7, "serving": 6}


def test_request_in_an_engine_is_serving_before_its_tokens_are_counted() -> None:
    ledger = ledger_of(
        (0, counts()), (200, counts(in_flight=1)), (200, counts(in_flight=1)), (200, counts(300))
    )
    balance = ledger.balance(6)
    assert balance is not None
    assert (balance.serving_j, balance.idle_j, balance.tokens) == (600, 0, 300)


def test_request_that_left_without_a_token_was_served_until_it_left() -> None:
    balance = ledger_of((0, counts(in_flight=1)), (200, counts()), (50, counts())).balance(4)
    assert balance is not None
    assert (balance.serving_j, balance.idle_j) == (200, 50)


def test_window_without_tokens_has_no_joules_per_token() -> None:
    balance = ledger_of((0, counts(9)), (100, counts(9))).balance(2)
    assert balance is not None
    assert balance.joules_per_token == {}
    assert balance.idle_j == 100


def test_window_looks_no_further_back_than_it_says() -> None:
    ledger = ledger_of((0, counts()), (1000, counts(10)), (100, counts(20)), (100, counts(30)), window_s=4)
    balance = ledger.balance(6)
    assert balance is not None
    assert balance.joules_per_token["all"] == 10
    assert ledger.balance(60) is None


def test_switch_has_the_energy_of_the_seconds_before_it_was_counted() -> None:
    ledger = ledger_of(
        (0, counts()),
        (100, counts()),  # 50 W
        (400, counts(in_flight=1)),  # 200 W
        (600, counts(in_flight=1)),  # 300 W
        (800, counts(in_flight=1, switches=1, lost_s=5)),  # 400 W: 1 s at 200, 2 at 300, 2 at 400
    )
    assert ledger.joules_per_switch == {"qwen2": 200 + 600 + 800}
    balance = ledger.balance(8)
    assert balance is not None
    assert (balance.switching_j, balance.serving_j, balance.idle_j) == (1600, 200, 100)


def test_two_switches_counted_at_once_are_their_mean() -> None:
    ledger = ledger_of((0, counts()), (100, counts()), (100, counts(switches=2, lost_s=4)))
    assert ledger.joules_per_switch == {"qwen2": 100}


@pytest.mark.parametrize("first", [counts(switches=1), counts(lost_s=2)], ids=["switch", "seconds"])
def test_switch_and_its_seconds_may_be_counted_one_after_the_other(first: Counts) -> None:
    ledger = ledger_of((0, counts()), (100, counts()), (100, first), (100, counts(switches=1, lost_s=2)))
    assert ledger.joules_per_switch == {"qwen2": 100}


def test_try_that_failed_counts_with_the_switch_that_follows_and_what_lies_between_does_not() -> None:
    ledger = ledger_of(
        (0, counts()),
        (100, counts(lost_s=2)),
        (9000, counts(lost_s=2)),
        (300, counts(lost_s=4, switches=1)),
    )
    assert ledger.joules_per_switch == {"qwen2": 400}


def test_switch_that_began_before_the_first_reading_has_no_figure() -> None:
    assert ledger_of((0, counts()), (100, counts(switches=1, lost_s=9))).joules_per_switch == {}


def test_switch_while_a_card_was_away_has_no_figure() -> None:
    ledger = EnergyLedger(60)
    ledger.add(None, counts())
    ledger.add(Spent(0, 2, 100, whole=False), counts(tokens=5, switches=1, lost_s=1))
    assert ledger.joules_per_switch == {}
    assert ledger.balance(2) is None


def test_gateway_that_cannot_be_asked_for_a_while_makes_one_long_interval() -> None:
    ledger = ledger_of((0, counts(0)), (100, None), (100, None), (100, counts(30)))
    balance = ledger.balance(6)
    assert balance is not None
    assert balance.joules_per_token["all"] == 10


def test_gateway_that_was_started_anew_is_counted_from_zero() -> None:
    balance = ledger_of((0, counts(1000)), (100, counts(20))).balance(2)
    assert balance is not None
    assert balance.tokens == 20


def test_intervals_do_not_pile_up() -> None:
    ledger = ledger_of(*[(1.0, counts())] * 2000)
    assert len(ledger._intervals) <= 452
