"""`--model`: which cases it asks for, and what its options refuse."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.matrix.features import FEATURES, NAMED
from harness.matrix.model_cases import missing_words
from harness.matrix.models import known_models
from harness.plan.machine import planned_for
from harness.plan.model_selection import (
    check_options,
    facts_of,
    of_model,
    parse_quants,
    parse_tokens,
    small_share,
)
from harness.plan.plan import make_plan
from moe.errors import UnknownMemberError

ROOT = Path(__file__).parents[3]
H100 = planned_for("cuda_sm90", 1)
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 256,
    "intermediate_size": 128,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
}


def options(model=None, *, layouts=None, tokens=None, quant=None):
    return argparse.Namespace(model=model, layouts=layouts, tokens=tokens, quant=quant)


def planned(model, machine, **fields):
    """The plan for a model and its refusals' codes, with the compiled backend on a GPU."""
    points = of_model(options(model, **fields)).points
    if machine.devices:
        points = [point.replace(experts="triton") for point in points]
    plan = make_plan(points, machine)
    return plan, {refusal.reason.code for refusal in plan.refused}


def test_without_a_model_there_is_nothing_to_select():
    assert of_model(options()) is None
    check_options(options())
    with pytest.raises(UsageError, match=r"^give --model NAME with --layouts and --quant$"):
        check_options(options(layouts="tp:2", quant="none"))


def test_by_default_one_rank_and_a_share_from_a_decode_to_a_prefill():
    model = of_model(options("qwen3-30b-a3b"))
    assert [point.id for point in model.points] == [
        f"m:{m}-n:768-k:2048-e:{experts}-topk:8-experts:auto"
        for experts in ("128", "16-of:128")
        for m in (1, 16, 512)
    ]
    assert (model.name, model.max_tokens) == ("qwen3-30b-a3b", 512)
    assert model.note.startswith("qwen3-30b-a3b (Qwen/Qwen3-30B-A3B): hidden 2048; intermediate")
    assert "`of:128` marks a share: some of the 128 experts" in model.note
    assert "share" not in of_model(options("qwen3-30b-a3b", layouts="tp:1")).note


RUN_TODAY = (
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "qwen3-235b-a22b",
    "olmoe-1b-7b",
    "qwen3-next-80b-a3b",
)


@pytest.mark.parametrize("model", RUN_TODAY)
def test_models_that_a_case_can_say_run_on_one_gpu(model):
    plan, codes = planned(model, H100, quant="none,fp8_block")
    assert (len(plan.cases), codes) == (12, set())


# Biases, groups, factors, weights on the input: with the checkpoint's own format.
ROUTED = (
    *("deepseek-v3", "kimi-k2", "glm-4.5", "minimax-m2"),
    *("llama-4-scout", "nemotron-3-nano-30b-a3b"),
    "nemotron-3-super-120b-a12b",  # whose experts have a latent width
    *("gpt-oss-20b", "gpt-oss-120b"),  # of odd sizes, with biases
)


@pytest.mark.parametrize("model", ROUTED)
def test_models_whose_router_has_options_run_on_one_gpu(model):
    plan, codes = planned(model, H100)
    assert (len(plan.cases), codes) == (6, set())


def test_a_model_that_is_too_large_is_refused_for_that_alone():
    plan, codes = planned("llama-4-maverick", H100)
    assert (len(plan.cases), len(plan.refused), codes) == (3, 3, {"needs_memory"})


def test_each_model_runs_but_for_its_size():
    assert {*RUN_TODAY, *ROUTED, "llama-4-maverick"} == set(known_models())


def test_the_docs_name_each_model_with_what_it_lacks_and_each_word_with_its_code():
    text = (ROOT / "docs" / "models.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    told = {name: tuple(row[1:]) for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    for name, facts in known_models().items():
        words = [f"`{word}`" for word in missing_words(facts, None)]
        assert told[name] == (", ".join(words) or "run",)
    named = {word: (code, "") for word, (code, *_) in NAMED.items()}
    for word, (code, _) in {**FEATURES, **named}.items():
        assert told[f"{word}NAME" if word in NAMED else word][-1] == f"`{code}`"


@pytest.mark.parametrize(
    ("model", "quant", "expected"),
    [
        ("mixtral-8x7b", None, "m:16-n:14336-k:4096-e:8-topk:2-experts:auto"),
        (
            "qwen3-235b-a22b",
            "fp8_block",
            "m:16-n:1536-k:4096-e:8-of:128-topk:8-experts:auto-quant:fp8_block",
        ),
        (
            "llama-4-scout",
            "none",
            "m:16-n:8192-k:5120-e:8-of:16-topk:1-experts:auto-shared:1-no_renorm-router:sigmoid"
            "-weights_input",
        ),
    ],
)
def test_a_small_share_has_a_models_sizes_and_eight_experts(model, quant, expected):
    assert small_share(model, quant).id == expected


def test_a_refused_case_is_refused_again_by_its_id():
    (point, *_) = of_model(options("gpt-oss-20b")).points
    point = point.replace(missing="act_cubed")
    again = type(point).from_id(point.id)
    assert again == point
    assert make_plan([again], H100).refused[0].reason.text.startswith("no case can say yet: ")


def test_what_does_not_fit_is_refused_with_what_it_needs_and_what_there_is():
    plan, codes = planned("qwen3-235b-a22b", planned_for("cpu"), layouts="tp:1,ep:8")
    assert codes == {"needs_memory"}
    texts = {refusal.case.world_size: refusal.reason.text for refusal in plan.refused}
    assert texts[8].endswith("16.0 GB: 76.8 GB needed, 12.8 GB available")


def test_a_path_is_a_config_and_its_folder_the_name(tmp_path, monkeypatch):
    folder = tmp_path / "My-MoE"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MIXTRAL))
    for text in (str(folder), str(folder / "config.json")):
        name, facts = facts_of(text)
        assert (name, facts.experts) == ("My-MoE", 8)
    monkeypatch.chdir(folder)
    assert facts_of("config.json")[0] == "My-MoE"
    assert facts_of("./config.json")[0] == "My-MoE"


def test_names_are_found_in_any_case_and_unknown_ones_get_a_hint():
    assert facts_of("GLM-4.5") == facts_of("glm-4.5")
    with pytest.raises(UsageError, match=r"'mixtral', did you mean 'mixtral-8x7b'\? \(known: "):
        facts_of("mixtral")
    with pytest.raises(UsageError, match=r"give the path of its config.json, with a slash"):
        facts_of("gpt-5")


@pytest.mark.parametrize("text", ["", "0", "1,,2", "x", "-1", "1.5", "1048577", "²"])
def test_tokens_are_whole_numbers(text):
    with pytest.raises(UsageError, match="is not a number of tokens; give whole numbers from 1 to"):
        parse_tokens(text)


def test_lists_keep_their_order_and_nothing_twice():
    assert parse_tokens("16, 1,16") == (16, 1)
    assert parse_quants("none,fp8_block,none") == ("none", "fp8_block")
    assert parse_quants(None) == ()


def test_methods_are_rows():
    with pytest.raises(UnknownMemberError, match="fp8_blok"):
        parse_quants("fp8_blok")
    for text in ("", "none,,fp8_block"):
        with pytest.raises(UsageError, match="give names of methods, such as none,fp8_block"):
            parse_quants(text)


def test_planning_a_model_imports_no_torch():
    code = "import sys; from harness.cli import main; main(sys.argv[1:]); "
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'triton')))"
    argv = ["list", "--model", "mixtral-8x7b", "--platform", "cuda_sm90"]
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, check=False)
    assert done.returncode == 0
