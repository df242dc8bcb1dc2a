"""The operator's port: probes, metrics, the status page, actions."""

from proxy.admin.actions import Refreshed
from proxy.admin.probes import Admin, Condition, Readiness
from proxy.admin.status import Listening, Rooms

__all__ = ["Admin", "Condition", "Listening", "Readiness", "Refreshed", "Rooms"]
