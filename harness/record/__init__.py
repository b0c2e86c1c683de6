"""Results, events and the run folder: the record of a run."""
