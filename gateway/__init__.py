"""One API in front of all your models on one GPU that cannot hold them all."""

from typing import Final

from gateway import compiled

__version__ = "0.1.0"

# Before any other module of the package is imported: the one thing that is done at import, since later is too late.
CODE: Final = compiled.use()
"""Whether this process runs compiled modules."""
