"""What surrounds a connection: its states, its receiving and its sending half, its transport and the pipes of that, the
hot path, what is remembered of heads and answers, the driver of a responder, what the connections of a listener share.

What enters: the world, responders as values. What stays out: the server, and processes.
"""
