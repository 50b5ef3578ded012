"""What the scheduler decides with: its vocabulary, its books, measured history, and estimates for people."""
