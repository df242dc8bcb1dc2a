"""Several processes that are one sidecar: one supervises, the others serve; docs/decisions/0010 tells why so."""
