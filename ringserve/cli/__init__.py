"""The command line: arguments become values, errors become lines, and results become exit codes.

What enters: `sys.argv` and the environment. Only `ringserve.__main__` imports it.
"""
