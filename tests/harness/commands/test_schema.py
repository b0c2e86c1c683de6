"""`schema` prints what editors read."""

import json

from harness import cli


def test_schema_prints_what_editors_read(engine, capsys):
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("draft-07/schema#")
