"""The embedded engine: a separate small program on TGI's wire. Run as ``python -m gateway.engine``."""
