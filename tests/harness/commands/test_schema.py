"""`schema` prints what editors read."""

import json

from harness import cli


def test_schema_prints_what_editors_read(engine, capsys):
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("draft-07/schema#")


def test_the_schema_of_the_models_is_the_other_ones(engine, capsys):
    assert cli.main(["schema", "--models"]) == 0
    assert "ModelFacts" in json.loads(capsys.readouterr().out)["definitions"]
