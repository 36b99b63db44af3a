"""What responders ask and decide with: their questions, the rules of a site, listings, passwords.

What enters: requests, entries, configured rules. What never does: a socket, a ring, or waiting. A responder that needs
something asks for it by a step.
"""
