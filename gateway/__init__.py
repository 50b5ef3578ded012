"""One API in front of all your models on one GPU that cannot hold them all."""

from typing import Final

from gateway import compiled

__version__ = "0.1.0"

# The one thing that is done at import: it has to come before any other module of the package is imported.
CODE: Final = compiled.use()
"""Whether this process runs compiled modules."""
