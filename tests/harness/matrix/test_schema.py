"""The JSON Schema of the matrix file: draft 7, as committed."""

import json
import re
from pathlib import Path

import jsonschema
import yaml

from harness.matrix import yaml_positions
from harness.matrix.schema import schema
from tests.harness.matrix.matrix_files import BAD

ROOT = Path(__file__).parents[3]


def test_the_committed_schema_is_the_exported_one():
    committed = (ROOT / "configs/matrix.schema.json").read_text()
    assert committed == schema(), "run: python -m harness schema > configs/matrix.schema.json"


def test_the_schema_is_draft_7_and_takes_the_committed_file():
    exported = json.loads(schema())
    assert exported["$schema"] == "http://json-schema.org/draft-07/schema#"
    jsonschema.Draft7Validator.check_schema(exported)
    assert not re.search(r"prefixItems|\$defs|\"null\"", schema())
    validator = jsonschema.Draft7Validator(exported)
    text = (ROOT / "configs/matrix.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=./matrix.schema.json\n")
    validator.validate(yaml.safe_load(text))
    assert len(list(validator.iter_errors(yaml_positions.load(BAD).value))) >= 5
