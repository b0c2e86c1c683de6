"""The file of real models: what is committed, and every error of a wrong one with its place."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness.errors import ConfigError, UsageError
from harness.matrix.models import DEFAULT, ModelFile, known_models, load
from harness.matrix.schema import schema

ROOT = Path(__file__).parents[3]
MODELS = known_models(ROOT / DEFAULT)
GOOD = """\
version: 1
models:
  small-1b:
    checkpoint: a/b
    source: [c]
    hidden: 64
    intermediate: 32
    experts: 8
    top_k: 2
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("models.yaml").write_text(text)
        return Path("models.yaml")

    return write


# hidden, intermediate, experts, top-k, shared columns: typed a second time, by hand.
SIZES = {
    "mixtral-8x7b": (4096, 14336, 8, 2, 0),
    "qwen3-30b-a3b": (2048, 768, 128, 8, 0),
    "qwen3-235b-a22b": (4096, 1536, 128, 8, 0),
    "qwen3-next-80b-a3b": (2048, 512, 512, 10, 512),
    "deepseek-v3": (7168, 2048, 256, 8, 2048),
    "kimi-k2": (7168, 2048, 384, 8, 2048),
    "glm-4.5": (5120, 1536, 160, 8, 1536),
    "gpt-oss-20b": (2880, 2880, 32, 4, 0),
    "gpt-oss-120b": (2880, 2880, 128, 4, 0),
    "llama-4-scout": (5120, 8192, 16, 1, 8192),
    "llama-4-maverick": (5120, 8192, 128, 1, 8192),
    "minimax-m2": (3072, 1536, 256, 8, 0),
    "nemotron-3-nano-30b-a3b": (2688, 1856, 128, 6, 3712),
    "nemotron-3-super-120b-a12b": (4096, 2688, 512, 22, 5376),
    "olmoe-1b-7b": (2048, 1024, 64, 8, 0),
}


def test_the_committed_models_have_their_sizes_and_sources():
    assert {
        name: (f.hidden, f.intermediate, f.experts, f.top_k, f.shared_width)
        for name, f in MODELS.items()
    } == SIZES
    for facts in MODELS.values():
        assert all(len(source) > 60 for source in facts.source)
        assert re.fullmatch(r"[\w-]+/[\w.-]+", facts.checkpoint)


def test_the_committed_schema_is_the_exported_one_and_takes_the_file():
    committed = (ROOT / "configs/models.schema.json").read_text()
    rule = "run: python -m harness schema --models > configs/models.schema.json"
    assert committed == schema(ModelFile), rule
    validator = jsonschema.Draft7Validator(json.loads(committed))
    text = (ROOT / DEFAULT).read_text()
    assert text.startswith("# yaml-language-server: $schema=./models.schema.json\n")
    validator.validate(yaml.safe_load(text))
    wrong = GOOD.replace("hidden: 64", "hiden: 64")
    assert list(validator.iter_errors(yaml.safe_load(wrong)))


def test_a_good_file_loads(write):
    assert load(write(GOOD))["small-1b"].router.scoring == "softmax"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1", "version: 2", "models.yaml:1:10: version: must be 1, not 2"),
        ("hidden: 64", "hiden: 64", "models.yaml:6:5: models.small-1b.hiden: unknown key, did you"),
        ("hidden: 64", "hidden: '64'", "6:13: models.small-1b.hidden: must be a whole number, not"),
        ("hidden: 64", "hidden: 0", "6:13: models.small-1b.hidden: must be at least 1, not 0"),
        ("hidden: 64", "hidden:", "models.small-1b.hidden: has no value"),
        ("    hidden: 64\n", "", "4:5: models.small-1b.hidden: lacks the key 'hidden'"),
        ("small-1b", "Small 1B", "models.Small 1B: must be a name of a-z, 0-9, '.', '-' and '_'"),
        ("[c]", "[]", "models.small-1b.source: must not be empty"),
        ("[c]", "['']", "models.small-1b.source[0]: must not be empty"),
        ("[c]", "c", "models.small-1b.source: must be a list, not 'c'"),
        ("top_k: 2", "top_k: 9", "models.small-1b: top_k 9 exceeds the number of experts, 8"),
        ("top_k: 2", "top_k: 2\n    dtype: f8", "dtype: must be 'bf16', 'fp16' or 'f32', not 'f8'"),
        (
            "top_k: 2",
            "top_k: 2\n    router: {scoring: softmax, bais: true}",
            "models.small-1b.router.bais: unknown key, did you mean 'bias'?",
        ),
        ("top_k: 2", "top_k: 2\n    router: 3", "models.small-1b.router: must be a mapping, not 3"),
        ("top_k: 2", "top_k: 2\n    router: {scale: 0}", "must be at least 0.001, not 0"),
        ("top_k: 2", "top_k: 2\n    top_k: 3", "this key is given twice"),
        (GOOD, "", "models.yaml:1:1: the file is empty"),
        (GOOD, "[", "models.yaml:"),
        (GOOD, "7", "models.yaml:1:1: must be a mapping, not 7"),
    ],
)
def test_an_error_says_what_and_where(write, old, new, expected):
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        load(path)
    assert expected in str(error.value)


def test_every_error_is_reported_at_once(write):
    with pytest.raises(ConfigError) as error:
        load(write(GOOD.replace("hidden: 64", "hidden: x").replace("top_k: 2", "topk: 2")))
    assert len(error.value.errors) == 3


def test_a_file_that_cannot_be_read_is_a_usage_error(write):
    with pytest.raises(UsageError, match=r"cannot read the file of models 'none.yaml'"):
        load(Path("none.yaml"))
