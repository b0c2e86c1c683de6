"""Plan what runs on this machine, in which order, and what is refused for which reason."""
