"""What every room may call to say what happens."""

from proxy.observe.logs import AccessLog, RequestLine, set_up

__all__ = ["AccessLog", "RequestLine", "set_up"]
