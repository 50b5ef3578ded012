"""The way of requests whose model is in: from the client's bytes to the engine's and back, without a task.

The ordinary way (``gateway.main`` and all below it) can do everything, and what it can do costs: an ASGI
application, coroutines, context managers. Most requests need none of that. Here each of them is one object
that the event loop calls. Whatever is not plain sailing goes the ordinary way: at the beginning, before
anything was done for it; and after a failure, with the place that it has and the try that failed
(``tickets.Begun``).

Both ways share what decides and what says: bodies, routing, templates, places, clocks, events, errors.
"""
