"""``python -m gateway.workers``: started by ``serve``, and by nobody else."""

import sys

from gateway.workers.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
