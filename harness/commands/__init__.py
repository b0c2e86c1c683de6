"""The command line, and the commands beside `run`."""
