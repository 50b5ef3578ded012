"""The edge: one file per dialect. Nothing below knows that dialects, or HTTP, exist."""
