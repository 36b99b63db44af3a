"""The command line: arguments become values, errors become lines, and results become exit codes.

What enters: `sys.argv` and the environment. Nothing imports it but `ringserve.__main__`.
"""
