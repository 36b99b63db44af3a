"""What the rings of Linux share: descriptors, sockets and directories by plain calls. Nothing here knows a ring."""
