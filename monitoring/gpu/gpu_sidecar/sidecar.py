"""The loop: read, count, say, wait."""

from __future__ import annotations

import threading
import time

from gpu_sidecar.driver import Driver, Round
from gpu_sidecar.energy import EnergyMeter
from gpu_sidecar.exposition import Exposition
from gpu_sidecar.gateway import GatewayPage
from gpu_sidecar.ledger import EnergyLedger
from gpu_sidecar.outage import Outage
from gpu_sidecar.patience import Patience
from gpu_sidecar.report import report
from gpu_sidecar.series import Sample
from gpu_sidecar.settings import Settings
from gpu_sidecar.statsd import Lines, Sender


class Sidecar:
    """Reads the cards again and again, and tells whoever wants to know."""

    def __init__(self, settings: Settings, stop: threading.Event) -> None:
        self._settings = settings
        self._stop = stop
        self._driver = Driver(settings.processes)
        self._reading = Patience(self._driver.read, settings.driver_timeout_s, stop)
        self._silence = Outage("the driver", "does not answer", "answers again")
        self._meter = EnergyMeter()
        self._gateway: GatewayPage | None = None
        self._ledger: EnergyLedger | None = None
        if settings.gateway_metrics_url is not None:
            self._gateway = GatewayPage(settings.gateway_metrics_url, settings.gateway_key)
            self._ledger = EnergyLedger(settings.window_s)
        self._known: tuple[tuple[int, str], ...] = ()

    def round(self) -> list[Sample]:
        """One reading of cards and gateway. Raises StaleLibrary."""
        reading = self._read()
        spent = self._meter.add(reading)
        if self._gateway is not None and self._ledger is not None:
            self._ledger.add(spent, self._gateway.read())
        return report(reading, self._meter, self._ledger, self._settings)

    def _read(self) -> Round:
        """A driver that hangs has lost all its cards."""
        try:
            reading = self._reading.ask()
        except TimeoutError:
            if not self._stop.is_set():
                self._silence.began(f"nothing within {self._settings.driver_timeout_s:g} s")
            return Round(time.monotonic(), (), self._known)
        self._silence.ended()
        self._known = tuple((card.index, card.uuid) for card in reading.cards) + reading.lost
        return reading

    def run(self, exposition: Exposition | None) -> None:
        """Until told to stop. Raises StaleLibrary."""
        settings = self._settings
        sender, lines = Sender(settings.statsd_host, settings.statsd_port), Lines()
        try:
            while not self._stop.is_set():
                began_s = time.monotonic()
                samples = self.round()
                sender.send(lines.of(samples))
                if exposition is not None:
                    exposition.publish(samples)
                self._stop.wait(max(0.0, began_s + settings.interval_s - time.monotonic()))
        finally:
            sender.close()
