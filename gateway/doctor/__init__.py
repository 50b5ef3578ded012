"""Looks at a machine and says what is missing before it is missed (``python -m gateway doctor``)."""
