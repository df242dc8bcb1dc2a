"""The HTTP/1.1 client: it writes a request once, and knows whether a byte of it was written."""

from proxy.upstream.connection import Exchange, Timeouts
from proxy.upstream.dial import Dialler, trust
from proxy.upstream.egress import egress_from
from proxy.upstream.pool import Pool
from proxy.upstream.response import Response

__all__ = ["Dialler", "Exchange", "Pool", "Response", "Timeouts", "egress_from", "trust"]
