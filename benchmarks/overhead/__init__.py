"""What stands between client and engine costs: our gateway beside nginx, vllm-router and a plain FastAPI gateway."""
