"""Load tests: simulated users for Locust, runs that check their own counts, and a report of them."""
