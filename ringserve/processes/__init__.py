"""Processes: the supervisor and its workers, the sockets that they share, signals, and the limits of a process.

What enters: a configuration. Here, and not below, `os`, `socket`, `signal` and `time` are used directly.
"""
