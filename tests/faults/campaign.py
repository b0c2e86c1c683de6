"""List every fault of the campaign: what happens, what becomes of the case or run, which test.

docs/reliability.md shows the table; test_campaign.py compares the two and looks for the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTROLLER = "tests/faults/test_controller_faults.py"
DISK = "tests/faults/test_full_disk.py"
HOSTS = "tests/faults/test_hosts.py"
GUARDIAN = "tests/harness/engine/test_guardian.py"
LEAKS = "tests/harness/fixtures/test_case_watch.py"
RANKS = "tests/faults/test_rank_faults.py"
SCHEDULER = "tests/harness/engine/test_scheduler.py"
_FITS = f"{SCHEDULER}::test_the_verdict_fits_the_fault"
_LIMIT = f"{SCHEDULER}::test_a_case_over_its_limit_is_hung_and_shows_where"
_HERE = f"{RANKS}::test_a_fault_has_its_verdict_and_the_next_case_passes"
_LEFT = f"{LEAKS}::test_what_every_run_of_a_case_leaves_behind_is_a_finding_beside_the_numbers"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row. outcome: the case's verdict, or what the run does. test: a node id of pytest."""

    words: str
    outcome: str
    test: str


CAMPAIGN = (
    Fault(
        words="a rank ends with exit code 0",
        outcome="`crashed`",
        test=f"{_FITS}[exit_zero-crashed]",
    ),
    Fault(
        words="a rank calls `os._exit(7)`",
        outcome="`crashed`",
        test=f"{_FITS}[os_exit-crashed]",
    ),
    Fault(
        words="SIGSEGV in a rank",
        outcome="`crashed`, with the rank's stack",
        test=f"{_FITS}[segfault-crashed]",
    ),
    Fault(
        words="SIGKILL of a rank",
        outcome="`crashed`",
        test=f"{_FITS}[sigkill-crashed]",
    ),
    Fault(
        words="SIGKILL of one of four ranks inside a collective",
        outcome="`crashed`, and names the rank",
        test=f"{_HERE}[killed_in_a_collective]",
    ),
    Fault(
        words="SIGSTOP of a rank",
        outcome="`hung`, named as stopped",
        test=f"{_HERE}[stopped]",
    ),
    Fault(
        words="a rank ignores SIGTERM and sleeps",
        outcome="`hung`, with all stacks",
        test=f"{_LIMIT}[ignore_sigterm]",
    ),
    Fault(
        words="an endless loop in Python",
        outcome="`hung`, reason `too_slow`, with its stack",
        test=f"{_LIMIT}[spin]",
    ),
    Fault(
        words="a deadlock in C that holds Python's lock",
        outcome="`hung`, with its stack",
        test=f"{_HERE}[deadlock_in_c]",
    ),
    Fault(
        words="a collective that a rank does not enter",
        outcome="`hung`, with all stacks",
        test=f"{_LIMIT}[miss_collective]",
    ),
    Fault(
        words="an exception on one rank",
        outcome="`error`",
        test=f"{_FITS}[raise_on_one-error]",
    ),
    Fault(
        words="an exception while the others wait",
        outcome="`error` after 2 s, not after the limit",
        test=f"{SCHEDULER}::test_an_error_while_others_wait_costs_the_grace_and_not_the_limit",
    ),
    Fault(
        words="memory runs out (RLIMIT_AS)",
        outcome="`error`; a limit left lowered costs the gang",
        test=f"{_HERE}[out_of_memory]",
    ),
    Fault(
        words="a case fills the disk of temporary files",
        outcome="`error`; the next cases pass",
        test=f"{DISK}::test_a_case_that_fills_the_disk_is_an_error_and_the_next_ones_pass",
    ),
    Fault(
        words="no room for events in the run folder",
        outcome="every case runs; exit code 75",
        test="tests/harness/commands/test_last_lines.py::test_real_commands_on_a_full_disk[run]",
    ),
    Fault(
        words="the run folder cannot be made",
        outcome="exit code 3, no process started",
        test=f"{CONTROLLER}::test_a_folder_that_cannot_be_made_is_a_usage_error_before_any_process",
    ),
    Fault(
        words="the folder for logs cannot be written",
        outcome="the verdict stays, and says so",
        test=f"{SCHEDULER}::test_a_log_folder_that_cannot_be_written_fails_no_run",
    ),
    Fault(
        words="a line of events is cut off",
        outcome="only that case runs again",
        test="tests/harness/record/test_run_folder.py"
        "::test_a_line_cut_off_by_a_crash_costs_only_itself[20]",
    ),
    Fault(
        words="SIGKILL of the controller",
        outcome="no process and no temporary folder left",
        test=f"{GUARDIAN}::test_kill_9_of_the_controller_leaves_no_process",
    ),
    Fault(
        words="SIGKILL of the guardian",
        outcome="no rank left",
        test=f"{GUARDIAN}::test_kill_9_of_the_guardian_too_leaves_no_rank",
    ),
    Fault(
        words="SIGKILL of the process above the ranks",
        outcome="`infra`: not a failure of the case",
        test=f"{_FITS}[kill_holder-infra]",
    ),
    Fault(
        words="Ctrl-C twice",
        outcome="exit code 130, nothing left, can be resumed",
        test=f"{CONTROLLER}"
        "::test_ctrl_c_twice_leaves_no_process_and_a_folder_that_can_be_resumed[0.2]",
    ),
    Fault(
        words="a child that calls `setsid` and loses its parent",
        outcome="`failed`, finding `leak`; killed with the gang",
        test=f"{_LEFT}[Orphans]",
    ),
    Fault(
        words="50 children that ignore SIGTERM",
        outcome="killed with the gang, which says so",
        test=f"{RANKS}::test_fifty_children_are_killed_with_their_gang",
    ),
    Fault(
        words="100 MB of output",
        outcome="verdict as without; the log has begin and end",
        test=f"{RANKS}::test_the_log_of_a_hundred_megabytes_has_their_begin_and_their_end",
    ),
    Fault(
        words="output without a newline before a crash",
        outcome="`crashed`, with the output",
        test=f"{RANKS}::test_output_without_a_newline_is_shown_and_kept",
    ),
    Fault(
        words="file descriptors that are not closed",
        outcome="`failed`, finding `leak`",
        test=f"{_LEFT}[Descriptors]",
    ),
    Fault(
        words="segments of /dev/shm that are not unlinked",
        outcome="`failed`, finding `leak` with their names",
        test=f"{_LEFT}[Segments]",
    ),
    Fault(
        words="a rank that SIGKILL does not end (simulated)",
        outcome="given up; its device is used no more",
        test=f"{SCHEDULER}::test_the_device_of_a_rank_that_cannot_be_killed_is_used_no_more",
    ),
    Fault(
        words="the port of `MASTER_PORT` is taken",
        outcome="not used: passes",
        test=f"{CONTROLLER}::test_a_port_that_is_taken_hinders_no_run",
    ),
    Fault(
        words="the clock jumps by a day",
        outcome="no effect on limits and seconds",
        test=f"{RANKS}::test_the_clock_of_the_controller_may_jump",
    ),
    Fault(
        words="a slow link between two hosts",
        outcome="passes, or `hung` with the stacks of both",
        test=f"{HOSTS}"
        "::test_a_slow_link_costs_time_and_one_that_is_too_slow_hangs_with_every_stack",
    ),
    Fault(
        words="a link between two hosts that is cut",
        outcome="`infra`; both sides end their ranks; exit code 75",
        test=f"{HOSTS}::test_a_cut_link_is_the_machines_fault_and_both_sides_end_their_ranks",
    ),
    Fault(
        words="a host that disappears",
        outcome="`infra`, and names the host; exit code 75",
        test=f"{HOSTS}::test_a_host_that_disappears_is_named_and_the_others_end_their_ranks",
    ),
)


def table() -> list[str]:
    """Return the lines of the table in docs/reliability.md."""
    rows = [
        f"| {fault.words} | {fault.outcome} | `{fault.test.partition('[')[0]}` |"
        for fault in CAMPAIGN
    ]
    return ["| fault | outcome | test |", "|---|---|---|", *rows]


if __name__ == "__main__":
    print("\n".join(table()))
