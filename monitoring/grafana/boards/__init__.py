"""All dashboards, in the order of their links."""

from __future__ import annotations

from monitoring.grafana.board import Board
from monitoring.grafana.boards import engines, experiments, gpu, history, load, models, overview

BOARDS: tuple[Board, ...] = (
    overview.BOARD,
    models.BOARD,
    gpu.BOARD,
    engines.BOARD,
    experiments.BOARD,
    load.BOARD,
    history.BOARD,
)
