"""Results, events and the run folder: the record of a run, from which reports are made. No torch.

Where to start:
    result            the result of a case on one rank, and on all ranks
    rank_merge        the verdict of all ranks
    events            what happens in a run, as JSON Lines
    run_folder        the folder of a run, read and written
    summary           the count of each verdict, and the exit code
    known_failures    the list of cases that fail for a known reason
"""
