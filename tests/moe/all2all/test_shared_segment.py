"""Memory of real processes: each reads and writes the others' part, and nothing is left behind."""

from harness import parallel_launch
from moe.all2all import shared_segment
from tests.moe import stack_ranks


def test_each_rank_reads_and_writes_the_parts_of_all():
    for size in (1, 4096, 5000):
        for read, first, length in parallel_launch(3, stack_ranks.shared_segment, size):
            assert read == [[1], [2], [3]]
            assert first == 9  # written by the rank before
            assert length == size


def test_a_rank_that_cannot_map_it_is_an_error_on_every_rank():
    for error in parallel_launch(2, stack_ranks.unmappable):
        assert "ranks at positions 1 of a group cannot map 8192 bytes of process" in error
        assert "run all ranks as one user" in error


def test_the_memory_has_no_name_and_goes_with_its_last_mapping():
    """A rank that dies leaves nothing behind: the file exists only as long as somebody maps it."""
    for mapped, _, left in parallel_launch(2, stack_ranks.mappings, 5000):
        assert mapped == ["/memfd:moe-peer-memory (deleted)"]
        assert left == []


def test_memory_that_is_held_keeps_no_file_open():
    """A case that holds it would else be repeated, to see whether its files are a leak."""
    for _, files, _ in parallel_launch(2, stack_ranks.mappings, 5000):
        assert files == 0


def test_a_file_that_is_not_there_is_told_of():
    memory, fault = shared_segment._opened("/proc/self/fd/9999", 64)
    assert memory is None
    assert "/proc/self/fd/9999" in fault
    assert "No such file" in fault
