"""The operator's port: what a probe asks."""

from proxy.admin.actions import Refreshed
from proxy.admin.probes import Admin, Condition, Readiness

__all__ = ["Admin", "Condition", "Readiness", "Refreshed"]
