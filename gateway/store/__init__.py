"""Weights on disk: fetched, listed, checked and removed (``python -m gateway models``)."""
