"""The sidecar between an ERP and the Invoisys fiscal API."""

__version__ = "0.1.0"
