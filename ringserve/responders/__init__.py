"""What responders ask and decide with: their questions, the rules of a site, listings, passwords.

What enters: requests, entries, configured rules. What stays out: a socket, a ring, and waiting. A responder that needs
something asks for it by a step.
"""
