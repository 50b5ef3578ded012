"""Reads NVIDIA cards and says what they do: StatsD lines for Telegraf, and a page for Prometheus."""

__version__ = "0.1.0"
