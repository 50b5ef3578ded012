"""``python -m gateway``."""

import signal
import sys

if __name__ == "__main__":
    # Until a command says what Ctrl-C means to it, it ends the program, without a word about where it was.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from gateway.cli import main

    sys.exit(main(sys.argv[1:]))
