"""What recording the figures costs the gateway."""
