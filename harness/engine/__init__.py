"""The process tree, from the scheduler to the ranks, and the evidence of crashes and hangs."""
