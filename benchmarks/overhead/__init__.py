"""What stands between client and engine costs: our gateway beside three others, in one run."""
