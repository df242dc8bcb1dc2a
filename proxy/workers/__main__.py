"""`python -m proxy.workers` is a worker; only the supervising process starts it."""

import sys

from proxy.workers.inside import main

raise SystemExit(main(*map(int, sys.argv[1:])))
