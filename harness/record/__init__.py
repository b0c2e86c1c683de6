"""Results, events and the run folder: what is kept of a run."""
