"""The settings: their values and bounds, the file that they are read from, the globs of its rules.

What enters: command-line values, the environment and one file, as text. What stays out: a server, a ring.
"""
