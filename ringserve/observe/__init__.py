"""What is noted of responses: counts, and the access log.

What enters: finished responses, and a descriptor to write to. What stays out: connections, and decisions about them.
"""
