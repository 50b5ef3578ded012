"""The users: one kind of behaviour in a file. ``loadtest/locustfile.py`` puts them together."""
