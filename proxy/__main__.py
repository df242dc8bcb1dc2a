"""`python -m proxy` is `invoisys-proxy`."""

from proxy.cli import main

raise SystemExit(main())
