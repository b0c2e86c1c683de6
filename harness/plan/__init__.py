"""Plan what runs on this machine, in which order, and what is refused for which reason. No torch.

Where to start:
    plan              cases and a machine -> jobs, and refused cases with their reasons
    machine           the machine, detected or assumed for another chip
    refusals          the needs of a case's rows, asked in order
    row_needs         what each row needs of a layer and of a machine
    selection         the options of the command line -> cases
    certificate       which combinations of values a suite covers
"""
