"""What surrounds a connection: its sending half, what is remembered of heads and answers, the driver of a responder,
what the connections of a listener share, the pipes that carry files.

What enters: the world, responders as values. What never does: the server, or a process.
"""
