"""How fast a running engine is: the figures of a preset for the echo engine, fitted from a few streams."""
