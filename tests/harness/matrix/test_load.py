"""The matrix file: every error at once with its place."""

import re
from pathlib import Path

import pytest

from harness.errors import ConfigError, ExitCode, UsageError
from harness.matrix import yaml_positions
from harness.matrix.expand import expand
from harness.matrix.load import find, load
from moe.experts import EXPERTS
from tests.harness.matrix.matrix_files import BAD, GOOD

ROOT = Path(__file__).parents[3]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        path = Path("matrix.yaml")
        path.write_text(text)
        return path

    return write


def config_errors(path):
    with pytest.raises(ConfigError) as error:
        load(path)
    assert error.value.exit_code is ExitCode.USAGE
    assert str(error.value) == "\n".join(error.value.errors)
    return error.value.errors


def test_a_good_file_loads(write):
    config = load(write(GOOD))
    assert config.suites["smoke"].time_limit_s == 120.0
    assert [case.id for case in expand(config, "smoke")] == [
        "m:32-n:256-k:128-e:8-topk:2-experts:torch_loop"
    ]


def test_every_complaint_at_once_with_its_place(write):
    assert config_errors(write(BAD)) == [
        "matrix.yaml:1:10: version: must be 1, not 2",
        "matrix.yaml:3:11: defaults.dtype[0]: dtype must be one of bf16, fp16, f32, not 'bf17', "
        "did you mean 'bf16'?",
        "matrix.yaml:7:5: suites.smoke.timout_s: unknown key, did you mean 'time_limit_s'?",
        "matrix.yaml:9:18: suites.smoke.blocks[0].shapes[0]: must be three numbers [m, n, k], "
        "not [1, 2]",
        "matrix.yaml:9:33: suites.smoke.blocks[0].shapes[1][2]: must be a whole number, not '5'",
        "matrix.yaml:9:40: suites.smoke.blocks[0].shapes[2][0]: must be at least 1, not 0",
        "matrix.yaml:10:22: suites.smoke.blocks[0].num_experts: must not be empty",
        "matrix.yaml:11:16: suites.smoke.blocks[0].top_k: must be a list such as [3], not 3",
        "matrix.yaml:12:19: suites.smoke.blocks[0].experts[0]: no experts backend is called "
        f"'tritn', did you mean 'triton'? (known: {', '.join(sorted(EXPERTS.rows))})",
        "matrix.yaml:14:19: suites.smoke.blocks[0].layouts[0]: sp needs ep: true and tp of 2 or "
        "more",
        "matrix.yaml:14:39: suites.smoke.blocks[0].layouts[1].dpp: unknown key, did you mean 'dp'?",
        "matrix.yaml:15:23: suites.smoke.blocks[0].renormalize[0]: must be true or false, not 'no'",
        "matrix.yaml:16:16: suites.smoke.blocks[0].seed[0]: must be at least 0, not -1",
        "matrix.yaml:17:9: suites.smoke.blocks[1]: lacks shapes, num_experts, top_k; give it here "
        "or under `defaults`",
        "matrix.yaml:18:9: suites.smoke.blocks[1].experts: this key is given twice, first in "
        "line 17",
        "matrix.yaml:19:16: suites.smoke.blocks[1].tokens: has no value; give one or leave the "
        "key out",
        "matrix.yaml:20:3: suites.Bad-name: must be a name of a-z, 0-9 and _, not 'Bad-name'",
        "matrix.yaml:20:27: suites.Bad-name.description: must be a word, not 3",
        "matrix.yaml:20:38: suites.Bad-name.blocks: must not be empty",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1\n", "", "1:1: version: lacks the key 'version'"),
        ("version: 1", "verson: 1", "1:1: verson: unknown key, did you mean 'version'?"),
        ("top_k: [2]", "topk: [2]", "8:9: suites.smoke.blocks[0].topk: unknown key, did you mean "),
        (
            "top_k: [2]",
            "zzz: [2]",
            "unknown key (known: shapes, num_experts, total_experts, top_k, experts, ",
        ),
        ("[torch_loop]", "[auto, 'a b']", "experts[1]: experts must be a name of [A-Za-z0-9_.:]"),
        ("[torch_loop]", "[1]", "experts[0]: must be a word, not 1"),
        ("[2]", "[2]\n        all2all: [auto]", "no all2all backend is called 'auto'"),
        (
            "[2]",
            "[2]\n        quant: [fp8_blok]",
            "no quantization method is called 'fp8_blok', did",
        ),
        (
            "[2]",
            "[2]\n        layouts: [2]",
            "layouts[0]: must be a mapping such as {dp: 2, tp: 1, ep: true}, not 2",
        ),
        (
            "[2]",
            "[2]\n        layouts: {dp: 2}",
            "layouts: must be a list of mappings such as [{dp: 2, ep: true}, {tp: 2}], not {'dp'",
        ),
        (
            "[[32, 256, 128]]",
            "[8, 64, 64]",
            "6:17: suites.smoke.blocks[0].shapes: must be a list of [m, n, k] such as "
            "[[8, 64, 64]], not [8, 64, 64]",
        ),
        (
            "[[32, 256, 128]]",
            "[[1, 2, 3], 4]",
            "6:29: suites.smoke.blocks[0].shapes[1]: must be three numbers [m, n, k], not 4",
        ),
        ("[2]", "[2]\n        exact: true", "exact: must be a list such as [true], not True"),
        (
            "[[32, 256, 128]]",
            "8",
            "shapes: must be a list of [m, n, k] such as [[32, 256, 128]], not 8",
        ),
        ("[2]", "[2]\n        tokens: even", "tokens: must be a list such as [even], not 'even'"),
        ("small", "small\n    time_limit_s: 0", "time_limit_s: must be more than 0, not 0"),
        ("small", "small\n    time_limit_s: .inf", "time_limit_s: must be a finite number"),
        ("small", "small\n    time_limit_s: 1e9", "time_limit_s: must be at most 1,000,000, not 1"),
        ("small", "small\n    retries: 1.5", "retries: must be a whole number, not 1.5"),
        (
            "[2]",
            "[2]\n        select: pairs",
            "9:17: suites.smoke.blocks[0].select: must be full, pairwise, triples or "
            "random(n, seed), not 'pairs'",
        ),
        ("[2]", "[2]\n        selekt: pairwise", "selekt: unknown key, did you mean 'select'?"),
        (
            "[2]",
            "[2]\n        cases: ['m:3']",
            "cases[0]: case id 'm:3': lacks n, k, e, topk, experts",
        ),
        (
            "[2]",
            "[2]\n        submodels: [{axes: [quant, dtype], strength: 2}]",
            "submodels go with select: pairwise or triples",
        ),
        (
            "[2]",
            "[2]\n        select: random(3, 1)\n        least_work: true",
            "least_work goes with select: pairwise or triples",
        ),
        (
            "[2]",
            "[2]\n        select: triples\n"
            "        submodels: [{axes: [quant, dtype], strength: 3}]",
            "a submodel's strength must be more than the block's, 3, and at most its number of "
            "axes, 2, not 3",
        ),
        (
            "[2]",
            "[2]\n        select: pairwise\n"
            "        submodels: [{axes: [quants, top_k], strength: 3}]",
            "submodels[0].axes[0]: no axis is called 'quants', did you mean 'quant'?",
        ),
        (
            "[2]",
            "[2]\n        select: pairwise\n        submodels: [{axis: [quant, dtype]}]",
            "submodels[0].axis: unknown key, did you mean 'axes'?",
        ),
        (
            "small",
            "small\n    include: [smok]",
            "5:15: suites.smoke.include[0]: no suite before 'smoke' is called 'smok'",
        ),
        (GOOD, "", "matrix.yaml:1:1: the file is empty"),
        (GOOD, "[1, 2]", "matrix.yaml:1:1: must be a mapping, not [1, 2]"),
        (
            "version: 1",
            "version: [1",
            "matrix.yaml:2:7: not valid YAML: while parsing a flow sequence did not find",
        ),
        (
            "version: 1",
            "version: !!set 1",
            "version: the tag 'tag:yaml.org,2002:set' is not supported",
        ),
        ("version: 1", "[a]: 1", "1:1: a key must be a plain word"),
        ("version: 1", "version: &a [*a]", "version[0]: an alias may not contain itself"),
    ],
)
def test_a_complaint_says_what_and_where(write, old, new, message):
    assert old in GOOD
    assert message in "\n".join(config_errors(write(GOOD.replace(old, new, 1))))


def test_an_anchor_stands_for_its_value(write):
    text = GOOD.replace("[[32, 256, 128]]", "&s [[32, 256, 128]]")
    text += "      - {shapes: *s, num_experts: [4], top_k: [1], experts: [triton]}\n"
    assert len(expand(load(write(text)), "smoke")) == 2


def test_a_shape_without_its_list_is_one_complaint(write):
    assert len(config_errors(write(GOOD.replace("[[32, 256, 128]]", "[8, 64, 64]")))) == 1


def test_a_block_may_merge_another(write):
    text = GOOD.replace("- shapes", "- &first\n        shapes")
    config = load(write(text + "      - {<<: *first, experts: [triton]}\n"))
    assert [case.experts for case in expand(config, "smoke")] == ["torch_loop", "triton"]


def test_a_large_file_without_aliases_is_bounded_at_its_place(write):
    text = GOOD + "      - " + ",".join(["[1]"] * yaml_positions.MAX_VALUES).join("[]")
    (message,) = config_errors(write(text))
    assert re.match(r"matrix.yaml:10:\d+: suites.smoke.blocks\[1\]\[\d+\].*: the file", message)


def test_a_file_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the matrix file .*nowhere"):
        load(tmp_path / "nowhere.yaml")


def test_the_file_is_found_here_first_then_beside_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(None) == ROOT / "configs/matrix.yaml"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/matrix.yaml").write_text(GOOD)
    assert find(None) == Path("configs/matrix.yaml")
    assert find(Path("x.yaml")) == Path("x.yaml")
