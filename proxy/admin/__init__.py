"""The operator's port: probes, metrics, the status page, actions."""

from proxy.admin.actions import Refreshed
from proxy.admin.probes import Admin
from proxy.admin.source import Condition, OneProcess, Readiness, Source
from proxy.admin.status import Listening, Rooms

__all__ = ["Admin", "Condition", "Listening", "OneProcess", "Readiness", "Refreshed", "Rooms", "Source"]
