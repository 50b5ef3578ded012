"""What crosses a socket, written once and used on both of its sides: event streams and TGI's bodies."""
