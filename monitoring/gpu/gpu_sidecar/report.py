"""Everything that one round has to say, as samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gpu_sidecar.card import Card
from gpu_sidecar.driver import Round
from gpu_sidecar.energy import EnergyMeter
from gpu_sidecar.ledger import EnergyLedger
from gpu_sidecar.series import BY_NAME, CARD_TAGS, Sample
from gpu_sidecar.settings import Settings

JOULES_PER_KWH: Final = 3.6e6
NO_CARD: Final = "none"
"""Stands for the card in ``gpu_up`` until a first one was read: a machine without a driver is not silent."""


def report(
    reading: Round, meter: EnergyMeter, ledger: EnergyLedger | None, settings: Settings
) -> list[Sample]:
    """All samples of a round, cards first."""
    return [
        *_availability(reading, settings.host),
        *(sample for card in reading.cards for sample in _card(card, settings.host)),
        *_energy(meter, settings.host),
        *(_work(reading, ledger, settings) if ledger is not None else ()),
        *_cost(meter, settings),
    ]


def _availability(reading: Round, host: str) -> Iterator[Sample]:
    for card in reading.cards:
        yield Sample("gpu_up", 1, _tags(card.index, card.uuid, host))
    for index, uuid in reading.lost:
        yield Sample("gpu_up", 0, _tags(index, uuid, host))
    if not reading.cards and not reading.lost:
        yield Sample("gpu_up", 0, _tags(NO_CARD, NO_CARD, host))


def _card(card: Card, host: str) -> Iterator[Sample]:
    common = _tags(card.index, card.uuid, host)
    for value in card.values:
        own = [tag for tag in BY_NAME[value.name].tags if tag not in CARD_TAGS]
        yield Sample(value.name, value.value, common | ({own[0]: value.tag} if value.tag else {}))


def _energy(meter: EnergyMeter, host: str) -> Iterator[Sample]:
    for account in meter.accounts:
        tags = _tags(account.index, account.uuid, host) | {"source": account.source}
        yield Sample("gpu_energy_joules", account.total_j, tags)


def _work(reading: Round, ledger: EnergyLedger, settings: Settings) -> Iterator[Sample]:
    host = {"host": settings.host}
    for model, joules in ledger.joules_per_switch.items():
        yield Sample("joules_per_switch", joules, host | {"model": model})
    balance = ledger.balance(reading.at_s)
    if balance is None:
        return
    yield Sample("energy_window_joules", balance.serving_j, host | {"phase": "serving"})
    yield Sample("energy_window_joules", balance.switching_j, host | {"phase": "switching"})
    yield Sample("energy_window_joules", balance.idle_j, host | {"phase": "idle"})
    for share, joules in balance.joules_per_token.items():
        yield Sample("joules_per_token", joules, host | {"share": share})
        if settings.price_per_kwh is not None:
            price = joules * 1e6 / JOULES_PER_KWH * settings.price_per_kwh
            tags = host | {"currency": settings.currency, "share": share}
            yield Sample("cost_per_million_tokens", price, tags)


def _cost(meter: EnergyMeter, settings: Settings) -> Iterator[Sample]:
    if settings.price_per_kwh is not None and list(meter.accounts):
        price = meter.total_j / JOULES_PER_KWH * settings.price_per_kwh
        yield Sample("energy_cost", price, {"host": settings.host, "currency": settings.currency})


def _tags(index: int | str, uuid: str, host: str) -> dict[str, str]:
    return {"gpu": str(index), "uuid": uuid, "host": host}
