"""``python -m monitoring.grafana``: write dashboards and alert rules where Grafana is told to read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from monitoring.grafana import alerts, render
from monitoring.grafana.board import LANGUAGES
from monitoring.grafana.boards import BOARDS

HERE = Path(__file__).parent


def files() -> Iterator[tuple[Path, str]]:
    """Every file that is made, as path under this folder and content."""
    for language in LANGUAGES:
        for board in BOARDS:
            made = json.dumps(render.build(board, language), indent=1, ensure_ascii=False)
            yield Path("dashboards", language, f"{board.slug}.json"), made + "\n"
    yield Path("provisioning", "alerting", "gateway.yaml"), alerts.as_yaml()


def main() -> None:
    for path, content in files():
        target = HERE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
