"""One API in front of all your models on one GPU that cannot hold them all."""

__version__ = "0.1.0"
