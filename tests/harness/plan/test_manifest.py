"""What `run.json` records of a run, and the names of folders."""

import json

from harness import cli
from tests.harness.console import the_folder


def test_run_json_says_what_was_asked(engine):
    cli.main(["run", "--suite", "smoke", "--time-limit", "5"])
    info = json.loads((the_folder().path / "run.json").read_text())
    assert info["suite"] == "smoke"
    assert info["argv"] == ["run", "--suite", "smoke", "--time-limit", "5"]
    assert info["options"] == {"time_limit": 5.0, "retries": 1, "save_tensors": False}
    assert info["versions"]["python"].startswith("3.")
    assert "torch" in info["versions"]
    assert info["platform"]["name"] == "cpu"
    assert info["git"] is None
    (refused,) = info["refused"]
    assert refused["code"] == "platform_lacks_feature"
