"""Several processes that answer: one that owns everything, and workers that have the fast path only.

All accept connections at the same listening socket. A worker answers a request itself where the owner has
lent it a place in the model's engine (``leases``). Whatever else comes, it passes on with its connection: the
owner gets the client's socket and what was read from it, and is from then on the only one who speaks to the
client. When such a connection has shown that its requests are of the kind that workers answer, it goes back.

The two talk over a pair of Unix sockets that nobody else can reach (``channel``): from the owner come hello,
give, recall, tell, connection and drain; from a worker want, return, connection, begun, suspect and tick.
"""
