"""The settings: their values and bounds, the file that they are read from, the globs of its rules.

What enters: command-line values, the environment and one file, as text. What never does: a server, a ring.
"""
