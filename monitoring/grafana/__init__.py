"""Dashboards and alert rules as code. ``python -m monitoring.grafana`` writes the JSON that Grafana reads.

A dashboard is data (``board.py``), one file each (``boards/``). Queries are made in one place
(``queries.py``), and only ``render.py`` and ``variables.py`` know Grafana.
"""
