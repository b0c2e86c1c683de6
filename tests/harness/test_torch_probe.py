"""What torch says of this machine, and which members can be imported."""

import pytest

from harness.commands import doctor
from moe.experts import EXPERTS
from moe.spec import MemberSpec


def test_the_probe_asks_the_real_torch():
    torch = pytest.importorskip("torch")
    members = ["experts/torch_loop", "quant/none"]
    answer = doctor.ask_torch(members)
    assert answer["version"] == torch.__version__
    assert len(answer["devices"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert answer["faults"] == {}


def test_the_probe_names_a_member_that_cannot_be_imported(monkeypatch):
    pytest.importorskip("torch")
    from harness import torch_probe

    row = MemberSpec(name="broken", target="moe.experts.no_such_file:Nothing")
    monkeypatch.setattr(EXPERTS, "_rows", {**EXPERTS.rows, "broken": row})
    faults = torch_probe.load_faults(["experts/broken", "experts/torch_loop"])
    assert list(faults) == ["experts/broken"]
    assert "ModuleNotFoundError" in faults["experts/broken"]
