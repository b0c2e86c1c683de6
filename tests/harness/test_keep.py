"""Saved tensors: written only when asked, complete, loadable by anybody, and never pickle."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from harness.case import MoETestConfig, short_name
from harness.context import RankContext
from harness.execute import run_case
from harness.result import Verdict

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = MoETestConfig(m=3, n=32, k=64, num_experts=4, top_k=2, experts="torch_loop", all2all="local")


def run(folder=None, case=CASE):
    options = {} if folder is None else {"save_tensors": str(folder)}
    context = RankContext(
        rank=0, world_size=1, device=torch.device("cpu"), transport="gloo", options=options
    )
    return run_case(case, context)


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "not" / "there yet"
    assert run(folder).verdict is Verdict.PASSED
    return folder


def test_the_file_is_named_by_case_and_rank(saved):
    """Colons are no characters for file names everywhere."""
    (path,) = saved.iterdir()
    assert path.name == CASE.id.replace(":", "_") + "-rank0.safetensors"


def test_everything_is_there_as_it_was(saved):
    (path,) = saved.iterdir()
    found = load_file(path)
    shapes = {name: tuple(t.shape) for name, t in found.items()}
    assert shapes == {
        "x": (3, 64),
        "router_logits": (3, 4),
        "token_index": (3,),
        "topk_ids": (3, 2),
        "topk_weights": (3, 2),
        "out": (3, 64),
        "reference": (3, 64),
    }
    assert (found["x"].dtype, found["out"].dtype) == (torch.bfloat16, torch.bfloat16)
    assert found["token_index"].tolist() == [0, 1, 2]
    near = (found["out"].float() - found["reference"]).norm() / found["reference"].norm()
    assert 0 < float(near) < 0.01


def test_the_header_names_the_case_and_the_rank(saved):
    (path,) = saved.iterdir()
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["__metadata__"] == {"case": CASE.id, "rank": "0"}
    assert MoETestConfig.from_id(header["__metadata__"]["case"]) == CASE


def test_a_failed_case_is_saved_too(tmp_path, monkeypatch):
    from moe.all2all.local import Local

    monkeypatch.setattr(Local, "finalize", lambda self, partial, dispatched: partial * 0)
    assert run(tmp_path).verdict is Verdict.FAILED
    (path,) = tmp_path.iterdir()
    found = load_file(path)
    assert not bool(found["out"].any())
    assert bool(found["reference"].any())


def test_nothing_is_written_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run()
    assert list(tmp_path.iterdir()) == []


def test_the_saved_input_is_the_one_that_was_given(tmp_path, monkeypatch):
    """Whatever the layer, called twice for the same tokens, does to its own."""
    from moe.layer import FusedMoE

    run(tmp_path / "sound")
    forward = FusedMoE.forward

    def over(self, x, logits):
        found = forward(self, x, logits)
        x.copy_(found.out)
        return found

    monkeypatch.setattr(FusedMoE, "forward", over)
    assert run(tmp_path / "spoilt").verdict is Verdict.FAILED
    sound, spoilt = (load_file(path) for path in sorted(tmp_path.glob("*/*")))
    assert torch.equal(sound["x"], spoilt["x"])


def test_what_cannot_be_saved_fails_no_case(tmp_path, capfd):
    (tmp_path / "file").write_text("in the way")
    assert run(tmp_path / "file" / "below").verdict is Verdict.PASSED
    assert "tensors were not saved: " in capfd.readouterr().out


def test_a_long_id_still_makes_a_file_name():
    case = CASE.replace(experts="moe." + "x" * 250 + ":Experts", seed=1)
    other = case.replace(seed=2)
    assert len(short_name(case.id)) < 200
    assert short_name(case.id) != short_name(other.id)
