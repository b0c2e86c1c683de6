"""What runs on this machine, in which order, and what is refused with a reason."""
