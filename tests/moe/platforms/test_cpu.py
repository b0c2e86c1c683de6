"""A CPU runs Triton kernels where the interpreter's versions fit."""

from importlib.metadata import PackageNotFoundError

import pytest

from moe.platforms import cpu


@pytest.mark.parametrize(
    ("triton", "numpy", "fits"),
    [("3.9.0", "2.4.6", True), ("3.6.0", "2.4.0", False), ("3.6.0+git1", "2.3.9", True)],
)
def test_the_interpreter_needs_versions_that_fit(monkeypatch, triton, numpy, fits):
    versions = {"triton": triton, "numpy": numpy}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    fault = cpu.interpreter_fault()
    assert (fault is None) == fits
    if fault:
        assert "install triton>=3.9 or numpy<2.4" in fault
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert ("triton" in cpu.platform().features) == fits


def test_a_machine_without_triton_has_no_such_feature(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cpu.platform().features - {"peer_memory"} == {"cpu", "fp8_e4m3", "fp8_e4m3fnuz"}


def test_processes_share_memory_where_a_file_needs_no_name(monkeypatch):
    assert "peer_memory" in cpu.platform().features, "this is Linux"
    monkeypatch.delattr("os.memfd_create")
    assert "peer_memory" not in cpu.platform().features


@pytest.mark.parametrize(("triton", "reads"), [("3.6.0", False), ("3.9.0+cpu", True)])
def test_interpreters_read_e4m3fnuz_since_triton_3_9(monkeypatch, triton, reads):
    monkeypatch.setattr("importlib.metadata.version", {"triton": triton, "numpy": "2.1"}.get)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert ("fp8_e4m3fnuz" in cpu.platform().features) == reads


def test_versions_of_packages_that_are_absent_are_no_fault(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", absent)
    assert cpu.interpreter_fault() is None


def test_a_cpu_interprets_kernels():
    assert cpu.platform().interpreted
    assert cpu.platform().device == "cpu"
