"""The embedded fake Invoisys, for the demo, for tests, and for an ERP team's own CI.

It speaks real HTTP on a real socket, counts what it sees, and misbehaves on demand. It imports nothing of the rest.
"""

from proxy.fake.app import PASSWORD, USERNAME, FakeInvoisys
from proxy.fake.faults import ActionError
from proxy.fake.script import Script, ScriptError, load_script

__all__ = ["PASSWORD", "USERNAME", "ActionError", "FakeInvoisys", "Script", "ScriptError", "load_script"]
