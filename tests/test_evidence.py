"""The scripts of the evidence: their rules are what they say, and the document shows all."""

from __future__ import annotations

import re
import shlex
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from benchmarks import bounds_plot, detection, judge, rules, shares
from benchmarks.detection import faulty
from benchmarks.rules import Data, right
from harness.checks.output import judge as judged
from harness.commands.options import parse
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from harness.record.events import CaseEnded
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from moe.quant import QUANT
from moe.reference.result import Answer
from tests.harness.record.infos import run_info

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
TINY = MoETestConfig(m=6, n=128, k=128, num_experts=3, top_k=2, experts="triton")
ZEROS, ONES = torch.zeros(4, 8), torch.ones(4, 8)


@pytest.mark.parametrize(
    ("accepts", "yes", "no"),
    [
        (rules.close(3e-2, 3e-2), 1.059, 1.061),
        (rules.close(0.0, 0.1, 0.0), 99.0, None),
        (rules.close_and_alive(3.0, 0.0), 0.51, 0.49),
        (rules.close_to_spread, 1.49, 1.51),
        (rules.close_to_largest(0.05, 0.05), 1.1, 1.11),
        (rules.similar(1e-2, 0.0), 1.1, 2.0),
        (rules.similar(1e-2, 1.0), 1.2, 2.0),
        (rules.relative_to_rms(2e-2, 1.0), 1.019, 1.021),
        (rules.relative_to_rms(1.0, 4e-3), 1.003, 1.005),
    ],
)
def test_a_rule_accepts_up_to_its_tolerance(accepts, yes, no):
    assert accepts(ONES * yes, ONES)
    assert no is None or not accepts(ONES * no, ONES)


def test_shares_of_elements_count():
    one_wrong = ONES.clone()
    one_wrong[0, 0] = 9.0  # of 32: 3.1 %
    assert rules.close(0.01, 0.01, 0.95)(one_wrong, ONES)
    assert not rules.close(0.01, 0.01, 0.98)(one_wrong, ONES)


def test_each_rule_names_data_that_there_is():
    assert {rule.data for rule in rules.RULES} <= set(rules.RECIPES)
    assert {"vLLM", "FlashInfer", "SGLang", "TRT-LLM", "DeepEP", "aiter"} <= {
        rule.project for rule in rules.RULES
    }


def test_a_fixed_tolerance_takes_zeros_on_small_data_and_ours_does_not():
    given = right(TINY, Data(tokens=0.01, weights=0.01))
    wrong = {"zeros": torch.zeros_like(given.answer.out)}
    fixed = next(rule for rule in rules.RULES if rule.project == "SGLang")
    assert rules.let_through(fixed, given, wrong) == ["zeros"]
    assert rules.ours_let_through(given, wrong) == []


def test_a_rule_that_rejects_a_right_answer_is_found_out():
    given = right(TINY, Data())
    never = rules.Rule(project="nobody", text="never", accepts=lambda *_: False, data="mk")
    with pytest.raises(ValueError, match="nobody, never: rejects a right answer"):
        rules.let_through(never, given, {})


@pytest.mark.parametrize("quant", ["none", "fp8_tensor", "fp8_block", "int8_channel"])
def test_the_detection_limit_parts_right_from_wrong(quant):
    given = right(TINY.replace(quant=quant), Data())
    assert judged(detection.output(given), given.answer).verdict is Verdict.PASSED
    least = detection.limit(given, detection.second_matrix)
    assert detection.SMALLEST < least < 0.2
    assert detection.caught(given, detection.second_matrix, least)
    assert not detection.caught(given, detection.second_matrix, least / 1.2)


def test_one_scale_is_less_than_the_whole_matrix():
    given = right(TINY.replace(quant="fp8_block", n=256, k=256), Data())
    whole = detection.limit(given, detection.second_matrix)
    assert detection.limit(given, detection.one_scale) > whole


def test_a_whole_case_sees_less_than_its_output_by_itself():
    case = TINY.replace(quant="fp8_block")
    seen = faulty.limit(case.replace(experts=faulty.BACKEND, m=8), "w2")
    assert faulty.SMALLEST < seen < 0.005
    alone = detection.limit(right(case, Data()), detection.second_matrix)
    assert seen < alone / 4


def test_a_judgement_is_timed_and_a_run_s_phases_are_summed(tmp_path):
    assert 0 < judge.seconds(16, 256, torch.device("cpu")) < 5
    result = CaseResult(
        case_id="a", verdict=Verdict.PASSED, seconds=2.0, phases={"judge": 0.5, "layer": 1.0}
    )
    with RunFolder.create(tmp_path / "run", run_info(cases=["a"])) as folder:
        folder.append(CaseEnded(time=0.0, gang=1, result=result))
    assert judge.shares(tmp_path / "run") == {"judge": 0.5, "layer": 1.0, "case": 2.0}


# The picture of the bounds.

BOUNDS = (ROOT / "docs" / "bounds.md").read_text(encoding="utf-8")
HERE = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
SVG = "{http://www.w3.org/2000/svg}"


def _extents(svg: str) -> dict[str, list[tuple[float, float]]]:
    """By kind, from where to where each histogram's bars reach; `bound`: the line's place."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in ET.fromstring(svg).iter(f"{SVG}path"):
        bars = re.findall(r"M([\d.]+) [\d.]+(?:v-?[\d.]+h([\d.]+))?", path.attrib["d"])
        ends = [float(x) + float(width or 0) for x, width in bars]
        found.setdefault(path.attrib["class"], []).append((float(bars[0][0]), max(ends)))
    return found


def _parted(svg: str) -> bool:
    """Whether the bars of right outputs lie left of the bound and those of wrong ones right."""
    extents = _extents(svg)
    ((bound, _),) = extents["bound"]
    right = all(end <= bound for _, end in extents["right"])
    return right and all(start >= bound for start, _ in extents["wrong"])


@pytest.mark.parametrize("quant", ["none", "fp8_block", "int8_channel"])
def test_the_picture_of_a_small_sample_parts_right_from_wrong(quant, one_thread):
    case = TINY.replace(quant=quant, experts="torch_loop", k=256, shared_experts=1)
    found = shares.of_case(case, HERE)
    assert len(found.right) == 6 + 4  # both calls' rows
    assert {"zeros", "expert_dropped"} <= {name for _, name in found.wrong}
    assert 0.05 < max(found.right) < 1 < min(found.wrong)[0]
    svg = bounds_plot.drawn({(quant, "torch_loop"): found}, "here")
    words = [text.text for text in ET.fromstring(svg).iter(f"{SVG}text")]
    assert {quant, "torch_loop", "the bound", "here"} <= set(words)
    assert _parted(svg)
    assert svg == bounds_plot.drawn({(quant, "torch_loop"): found}, "here")


def test_a_row_s_share_is_its_distance_over_its_bound():
    out = torch.zeros(3, 18)  # columns from which on the margin is 2
    out[0, 0], out[1, :2], out[2, 1] = 3.0, torch.tensor([3.0, 4.0]), torch.nan
    one, four = torch.ones(3), torch.full((3,), 4.0)
    answer = Answer(out=torch.zeros(3, 18), variance=one, flips=four, amax1=one, amax2=one)
    assert shares.row_shares(out, answer) == [0.75, 1.25, float("inf")]  # of 2 * 1 + 2


def test_the_picture_shows_what_lies_on_the_other_side():
    def parted(right: float, wrong: float) -> bool:
        both = shares.Shares(
            right=(0.4, right), wrong=((9.0, "a"), (wrong, "b")), others=((2, "c"),)
        )
        return _parted(bounds_plot.drawn({("none", "mine"): both}, ""))

    assert parted(0.999, 1.0)
    assert not parted(0.4, 0.9)
    assert not parted(1.01, 9.0)
    assert parted(0.0, float("inf"))


def test_the_cases_of_the_picture_are_all_pairs_alone_and_on_two_ranks():
    points = shares.cases("cpu", 2)
    pairs = {(point.quant, point.experts) for point in points}
    assert {quant for quant, _ in pairs} == set(QUANT.rows)
    assert {member for _, member in pairs} >= {"triton", "torch_grouped", "torch_loop"}
    assert len({point.id for point in points}) == len(points) == len(pairs) * 2 * 2


def test_two_ranks_are_measured_and_drawn_as_one():
    points = [p.replace(experts="torch_loop", m=4) for p in shares.cases("cpu", 1)]
    points = [p for p in points if p.quant == "none" and p.world_size == 2][:1]
    (found,) = shares.measured(points, "cpu").values()
    assert len(found.right) == 2 * (4 + 3)
    assert {"rank_missing", "zeros"} <= {name for _, name in found.wrong}


def test_the_document_s_picture_and_table_are_of_one_run_and_say_what_the_text_says():
    assert "\n    python benchmarks/bounds_plot.py\n" in BOUNDS
    picture = (ROOT / "docs" / "bounds.svg").read_text(encoding="utf-8")
    assert len(picture) < 60_000
    assert "script" not in picture
    assert _parted(picture)
    words = [text.text for text in ET.fromstring(picture).iter(f"{SVG}text")]
    _, _, rest = BOUNDS.partition(bounds_plot.HEADINGS + "\n")
    rows = [line.strip("| ").split(" | ") for line in rest.partition("\n\n")[0].splitlines()[1:]]
    pairs = dict.fromkeys((p.quant, p.experts) for p in shares.cases("cpu", 1))
    methods = {"none", "fp8_tensor", "fp8_tensor_dynamic", "fp8_block", "int8_channel"}
    drawn = [(q, e) for q, e in pairs if q in methods and e in {row[1] for row in rows}]
    assert [(row[0], row[1]) for row in rows] == drawn
    assert {row[1] for row in rows} == {"triton", "torch_grouped", "torch_loop"}
    starts = [i for i, word in enumerate(words) if word in {row[1] for row in rows}]
    for row, start in zip(rows, starts, strict=True):
        shown = words[start : start + 8]
        assert shown == [row[1], *row[3:6], *row[6].split(" "), *row[7].split(" ")]
        assert float(row[5]) < 1 < float(row[6].split(" ")[0])


def _commands() -> list[str]:
    return re.findall(r"^    ((?:nice |env )?python .*)$", DOCUMENT, re.MULTILINE)


def test_every_table_has_its_command_and_the_command_exists():
    commands = _commands()
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command)
        if words[1:3] == ["-m", "harness"]:
            parse(words[3:])
        else:
            assert (ROOT / words[1]).is_file(), command


def test_the_document_shows_every_rule_and_every_planted_mistake():
    sys.path.insert(0, str(ROOT / "tests" / "mistakes"))
    from tests.mistakes.mistake import MISTAKES
    from tests.mistakes.mistake_executor import FAMILIES

    assert FAMILIES
    missing = [rule.text for rule in rules.RULES if f"| {rule.text} |" not in DOCUMENT]
    missing += [m.name for m in MISTAKES if f"| {m.name} |" not in DOCUMENT]
    assert missing == []
