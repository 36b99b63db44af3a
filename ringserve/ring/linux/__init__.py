"""What rings of Linux share: plain calls on sockets, pipes and directories, and what is opened before a loop starts."""
