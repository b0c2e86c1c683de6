"""`report`: a stored run as files or on the console."""

import json
from pathlib import Path

from harness import cli
from tests.harness.console import last_line, summary
from tests.harness.fake_engine import BASE


def test_report_writes_files_or_prints(engine, capsys):
    cli.main(["run", "--suite", "smoke", "--out", "here"])
    capsys.readouterr()
    assert cli.main(["report", "here"]) == 0
    assert summary(9, passed=8, skipped=1).match(last_line(capsys))
    assert cli.main(["report", "here", "--junit", "j.xml", "--markdown", "m.md"]) == 0
    assert capsys.readouterr().out.split() == ["j.xml", "m.md"]
    assert "<testsuites" in Path("j.xml").read_text()
    assert cli.main(["report", "here", "--html"]) == 0
    assert capsys.readouterr().out == "here/report.html\n"
    assert cli.main(["report", "here", "--trace"]) == 0
    assert capsys.readouterr().out == "here/trace.json\n"
    names = {
        entry["name"] for entry in json.loads(Path("here/trace.json").read_text())["traceEvents"]
    }
    assert f"{BASE}-tp:2" in names
    assert cli.main(["report", "here", "--html", "other.html"]) == 0
    assert Path("other.html").read_text() == Path("here/report.html").read_text()
    assert f'"id":"{BASE}-tp:2"' in Path("other.html").read_text()
    assert cli.main(["report", "here", "--markdown", "no/such/m.md"]) == 3
    assert "cannot write 'no/such/m.md': No such file" in capsys.readouterr().err
