"""What fits on a card: memory arithmetic before anything is started (``python -m gateway plan``)."""
