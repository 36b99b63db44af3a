"""What is noted of responses: counts, and the access log.

What enters: finished responses, and a descriptor to write to. What never does: a connection, or a decision about one.
"""
