"""Parse the command line, and run the commands besides `run`."""
