"""What tests share: the real program as a process, and bytes on sockets."""
