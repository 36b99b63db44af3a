"""What paths stand for: the table of entries, how long they may be trusted, and the watches that spoil them.

What enters: a root and a path. What stays out: a request, a response that was made of an entry, a connection.
"""
