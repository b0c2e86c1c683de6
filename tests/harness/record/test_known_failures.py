"""The file of known failures: what it may hold, and each error with its line."""

import datetime
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness.errors import ConfigError, UsageError
from harness.matrix.schema import schema
from harness.record.known_failures import DEFAULT, KnownFailuresFile, known_failures, load
from harness.record.result import Verdict
from tests.harness.record.known import TODAY, entry

ROOT = Path(__file__).parents[3]
GOOD = """\
version: 1
entries:
  - case: "*-tp:2*"
    issue: https://host/issues/1
    expires: 2027-01-31
    verdicts: [failed, flaky]
    cause: swapped
    platforms: [cpu]
  - case: m:1-n:2
    issue: https://host/issues/2
    expires: 2027-02-28
    quarantine: true
"""


def test_a_good_file(tmp_path):
    path = tmp_path / "known.yaml"
    path.write_text(GOOD)
    first, second = load(path)
    assert (first.pattern, first.cause, first.place) == ("*-tp:2*", "swapped", f"{path}:3")
    assert first.verdicts == (Verdict.FAILED, Verdict.FLAKY)
    assert first.expires == datetime.date(2027, 1, 31)
    assert second.quarantine
    assert second.place == f"{path}:9"


def test_a_pattern_is_about_cases_on_its_platforms_until_its_last_day():
    on_cpu = entry("*-tp:2*", platforms=("cpu",))
    assert on_cpu.matches("m:1-tp:2-ep", "cpu")
    assert not on_cpu.matches("m:1-tp:4", "cpu")
    assert not on_cpu.matches("m:1-tp:2", "cuda_sm90")
    assert not on_cpu.has_expired(TODAY)
    assert on_cpu.has_expired(TODAY + datetime.timedelta(days=1))


def test_every_error_has_its_place_and_says_what_is_wanted(tmp_path):
    lines = {
        '  - case: "a b"': "3:11: entries[0].case: must be a case id, in which * and ?",
        "    issue: 7": "4:12: entries[0].issue: must be a word, not 7",
        "    expires: tomorrow": "5:14: entries[0].expires: must be a day such as 2027-01-31",
        "    verdicts: [passed]": "6:16: entries[0].verdicts[0]: must be 'failed', 'error'",
        "    quarantin: true": "7:5: entries[0].quarantin: unknown key, did you mean 'quarantine'",
        "    platforms: []": "8:16: entries[0].platforms: must not be empty",
    }
    path = tmp_path / "known.yaml"
    path.write_text("version: 1\nentries:\n" + "\n".join(lines) + "\n")
    with pytest.raises(ConfigError) as raised:
        load(path)
    for line in lines.values():
        assert f"{path}:{line}" in str(raised.value)
    assert len(raised.value.errors) == len(lines)


def test_what_one_key_asks_of_another(tmp_path):
    path = tmp_path / "known.yaml"
    head = 'version: 1\nentries:\n  - {case: "*", issue: "https://a/1", '
    for rest, text in {
        "verdicts: [failed]": "lacks the key 'expires'",
        "expires: 2027-02-30, verdicts: [failed]": "no day '2027-02-30'; write one as",
        "expires: 2027-01-31": "lacks verdicts: [failed] or others, or quarantine: true",
        "expires: 2027-01-31, quarantine: true, cause: x": "has no verdicts and no cause",
    }.items():
        path.write_text(f"{head}{rest}}}\n")
        with pytest.raises(ConfigError, match="entries") as raised:
            load(path)
        assert text in str(raised.value)
    path.write_text("")
    with pytest.raises(ConfigError, match="1:1: the file is empty"):
        load(path)


def test_without_the_default_file_nothing_is_known_but_a_named_one_must_exist(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert known_failures() == ()
    with pytest.raises(UsageError, match="cannot read the file of known failures"):
        known_failures(Path("other.yaml"))


def test_the_schema_is_the_committed_one_and_allows_what_the_reader_allows():
    text = schema(KnownFailuresFile)
    rule = "run: python -m harness schema --known-failures > configs/known_failures.schema.json"
    assert (ROOT / "configs/known_failures.schema.json").read_text() == text, rule
    jsonschema.validate(
        yaml.load(GOOD, yaml.BaseLoader) | {"version": 1, "entries": []}, json.loads(text)
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"version": 1, "entries": [{"case": "*"}]}, json.loads(text))


def test_the_committed_file_can_be_read():
    load(ROOT / DEFAULT)
