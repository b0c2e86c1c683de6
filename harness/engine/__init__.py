"""The processes of a run, from the scheduler to the ranks, and the evidence of crashes and hangs.

The controller starts one guardian, which ends every process if the controller dies, and
forkservers, which have imported torch. A gang is forked from a forkserver: one process per rank,
which stays for many cases.

Where to start:
    scheduler         the cases of a plan -> gangs that run them; yields events
    gang              one gang, as a state machine
    forkserver_pool   the guardian and the forkservers, seen from the controller
    channel, messages what the processes send to each other
    task_outcome      how a case ended in its gang -> its result
    crash_evidence    logs and stacks of a failed case; hang_evidence those of a gang that hangs
"""
