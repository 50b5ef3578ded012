"""The terminal chat: a client of the native API, over HTTP alone."""
