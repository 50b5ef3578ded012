"""What model switching costs under different policies: ``python -m benchmarks.switching``."""
