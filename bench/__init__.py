"""The sidecar measured beside its peers, on this machine, in turns: see README.md in this folder."""
