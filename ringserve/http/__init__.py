"""What HTTP says, as values and pure functions: parsing a request, what its fields mean, building a response.

What enters: bytes, and values of other modules in here. What stays out: a descriptor, a clock, a configuration, and
what is remembered between requests. `request.py` alone knows h11.
"""
