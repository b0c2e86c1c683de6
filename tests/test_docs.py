"""The docs are true: links, files, commands, ids and tables; and the code that they show runs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from harness import parallel_launch
from harness.cli import COMMANDS, main
from harness.commands.options import parse
from harness.errors import ExitCode
from harness.execute import run_case
from harness.fixtures import tensors
from harness.fixtures.rank_context import RankContext
from harness.matrix import expand
from harness.matrix.case import AXES, MoETestConfig
from harness.matrix.load import find, load
from harness.plan import cost, support_table
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from harness.record.proof import Outcome
from harness.record.result import Verdict
from harness.record.rounding_fit import PLACES
from harness.record.summary import summarize
from moe.assumed_numerics import alternatives
from moe.experts import EXPERTS
from moe.layers import LAYERS
from moe.layers.base import CheckpointWeights, LayerSubject
from moe.layers.layer_row import TAKES
from moe.platforms import platform
from moe.reference import routing
from moe.spec import Numerics, Scheme
from tests.harness.execute_ranks import run_all
from tests.harness.testing import pytest_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.result import RankResult

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
HOW = ROOT / "docs" / "how-it-works.md"
BACKEND = ROOT / "docs" / "your-own-backend.md"
DOCS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
MEMBERS_PAGE = ROOT / "docs" / "your-own-members.md"
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=DOCS, ids=NAMES)
def doc(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def fenced(path: Path, language: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(path.read_text()) if kind == language]


def inline(path: Path) -> list[str]:
    """What stands in `single backquotes`, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", path.read_text()))


def table(path: Path, heading: str) -> list[list[str]]:
    """The rows under a table's heading, cell by cell, without the rule below it."""
    lines = path.read_text().splitlines()
    start = lines.index(heading) + 2
    end = next(i for i in range(start, len(lines) + 1) if not "".join(lines[i : i + 1]).strip())
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


# What is named is there.


def test_links_and_pictures_lead_somewhere(doc: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", doc.read_text())
    inside = [t.partition("#")[0] for t in targets if not t.startswith("https://")]
    assert [t for t in inside if t and not (doc.parent / t).exists()] == []


def headings(path: Path) -> set[str]:
    """The anchors of a page, as its headings make them: words in lower case, joined by hyphens."""
    lines = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line).lower() for line in lines]
    return {re.sub(r"[^\w\- ]", "", line).strip().replace(" ", "-") for line in plain}


def test_links_to_a_part_of_a_page_lead_to_a_heading(doc: Path) -> None:
    links = re.findall(r"\]\((?!https://)([^)\s#]*)#([^)\s]+)\)", doc.read_text())
    pages = [(doc.parent / name if name else doc, part) for name, part in links]
    assert [part for page, part in pages if part not in headings(page)] == []


def test_files_that_are_named_exist(doc: Path) -> None:
    """As a path from the root, or (in the file map) beside the file named before it."""
    pattern = re.compile(r"(?:[\w.-]+/)*(?:[\w-]+\.(?:py|yaml|yml|md|toml|txt|svg)|[\w.-]+/)\Z")
    named = [text for text in inline(doc) if pattern.match(text)]
    yours = ("runs/", "build/", "my_", "moe/experts/my_", "harness/checks/my_")
    named = [text for text in named if not text.startswith(yours)]
    extra = ROOT / "tests" / "extra_rows"
    folders = (extra, extra / "s8_matrix", extra / "sqrt_softplus")
    places = (ROOT, ROOT / "harness", ROOT / "moe", *folders)
    assert [text for text in named if not any((p / text).exists() for p in places)] == []


def test_functions_and_tests_that_are_named_exist(doc: Path) -> None:
    lost = []
    for text in inline(doc):
        found = re.fullmatch(r"([\w/]+\.py)::?(\w+)", text)
        if found:
            source = (ROOT / found[1]).read_text()
            if not re.search(rf"^\s*(def|class) {found[2]}\b", source, re.MULTILINE):
                lost.append(text)
    assert lost == []


def test_bounds_names_a_function_and_a_test_for_each_term() -> None:
    rows = table(ROOT / "docs" / "bounds.md", "| term | function | a test that shows it |")
    assert [row[0] for row in rows if row[0].isdigit()] == list("12345678")
    assert all(".py:" in row[1] for row in rows)


def test_ids_are_ids(doc: Path) -> None:
    ids = re.findall(r"(?<![\w.:-])m:\d+-[A-Za-z0-9._:-]*[A-Za-z0-9_]", doc.read_text())
    assert [text for text in ids if MoETestConfig.from_id(text).id != text] == []


def test_the_case_that_is_followed_is_in_smoke() -> None:
    (first, *_) = re.findall(r"`(m:\d+-[^`]+)`", HOW.read_text())
    assert MoETestConfig.from_id(first) in expand.expand(load(find(None)), "smoke")
    named = re.findall(r"`(m:\d+-[^`]+)`", (ROOT / "docs" / "bounds.md").read_text())
    assert named == [first]


def test_the_way_of_a_case_is_ten_files_of_which_the_document_names_no_other() -> None:
    text = HOW.read_text()
    walk = text.partition("## Step by step\n")[2].partition("\n## ")[0]
    steps = re.findall(
        r"^\d+\. \*\*[\w ]+: \[([\w/.]+)\]\(\.\./([\w/.]+)\)\.\*\*", walk, re.MULTILINE
    )
    assert [label for label, _ in steps] == [target for _, target in steps]
    assert len(re.findall(r"^\d+\. ", walk, re.MULTILINE)) == len(steps) <= 10
    files = re.findall(r"\w[\w/]*\.(?:py|yaml)\b", text)
    assert set(files) == {target for _, target in steps}


@pytest.fixture(scope="module")
def followed() -> tuple[RankResult, ...]:
    """The results of both ranks for the case that how-it-works.md follows."""
    (case_id, *_) = re.findall(r"`(m:\d+-[^`]+)`", HOW.read_text())
    return tuple(results[0] for results in parallel_launch(2, run_all, [case_id]))


def test_the_numbers_of_the_judgement_are_those_of_the_case(
    followed: tuple[RankResult, ...],
) -> None:
    text = " ".join(HOW.read_text().split())
    worst = {name: max(r.metrics[name] for r in followed) for name in followed[0].metrics}
    for name, digits in (("rel_rms", 4), ("worst_row", 4), ("bound_used", 2)):
        assert f"`{name}` {worst[name]:.{digits}f}".replace(" 0.", " .") in text
    assert worst["bad_rows"] == 0
    assert f"and no bad row of {worst['rows']:.0f}." in text
    assert {r.verdict for r in followed} == {Verdict.PASSED}
    caught = {
        proof.name for r in followed for proof in r.battery if proof.outcome is Outcome.CAUGHT
    }
    assert f"All {len(caught)} mutants that apply here were rejected" in text


def test_the_numbers_of_inputs_and_plan_are_those_of_the_case() -> None:
    text = " ".join(HOW.read_text().split())
    (case_id, *_) = re.findall(r"`(m:\d+-[^`]+)`", text)
    case = MoETestConfig.from_id(case_id)
    first = tensors.tokens(case, 0, 8, torch.device("cpu"), 0)
    ids = routing.choose(first.logits, case.top_k, case.router)
    weights = routing.weights(first.logits, ids, renormalize=True, router=case.router)[0].tolist()
    shares = " and ".join(f"{w:.4f}".removeprefix("0") for w in weights)
    experts = " and ".join(map(str, ids[0].tolist()))
    assert f"to the experts {experts}, with the weights {shares}." in text
    assert f"about {cost.rank_bytes(case.layer_spec, 'cpu') / 1e6:.0f} MB each" in text
    seconds = f"{cost.interpreted_seconds(case.layer_spec, 2):.1f}".removeprefix("0")
    assert f"take {seconds} s, below its limit of {cost.INTERPRETER_SECONDS:.0f} s" in text


def test_the_glossary_is_short_linked_and_speaks_the_words_of_the_sources() -> None:
    words = [row[0] for row in table(ROOT / "docs" / "glossary.md", "| word | meaning |")]
    assert words == sorted(set(words))
    assert len(words) <= 25
    assert "](docs/glossary.md)" in README.read_text()
    files = [path for room in ("harness", "moe") for path in (ROOT / room).rglob("*.py")]
    sources = "\n".join(path.read_text() for path in files).lower()
    unused = [w for w in words if not re.search(rf"(?<![a-z]){w}s?(?![a-z])", sources)]
    assert unused == []


# What is to be typed works.


@cache
def options_of(command: str) -> frozenset[str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit):
        parse([command, "--help"])
    return frozenset(re.findall(r"(?<!\w)--?[a-z][a-z-]*", text.getvalue()))


def shell_lines(path: Path) -> Iterator[str]:
    """Command lines of fenced blocks without a language, continued ones joined."""
    for block in fenced(path, ""):
        for line in block.replace("\\\n", " ").splitlines():
            yield line.strip().removeprefix("$ ").split("  #")[0]


def harness_lines(path: Path) -> list[list[str]]:
    """Arguments of every `python -m harness ...` and every inline `run --option ...`."""
    found = []
    for line in [*shell_lines(path), *inline(path)]:
        head, _, rest = line.partition("-m harness ")
        if rest and head.endswith("python "):
            found.append(shlex.split(rest))
        elif line.partition(" ")[0] in COMMANDS and " -" in line:
            found.append(shlex.split(line))
    return [words for words in found if words[0] != "COMMAND"]


def test_the_docs_show_commands() -> None:
    assert len(harness_lines(README)) >= 4
    assert {"test-matrix", "test"} <= {word for line in make_lines(README) for word in line}


def test_harness_commands_parse(doc: Path) -> None:
    suites = load(find(None)).suites
    for words in harness_lines(doc):
        args = parse(words)
        named, chips = (getattr(args, name, None) or [] for name in ("suite", "platform"))
        assert set([named] if isinstance(named, str) else named) <= {"NAME", *suites}, words
        assert all(map(platform, [chips] if isinstance(chips, str) else chips))


@pytest.fixture(scope="session")
def options_of_pytest(tmp_path_factory: pytest.TempPathFactory) -> frozenset[str]:
    """Options of pytest with its plugins, ours among them."""
    shown = pytest_runs.run(tmp_path_factory.mktemp("help"), "--help", suite=None).text
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))


def test_options_that_are_named_exist(doc: Path, options_of_pytest: frozenset[str]) -> None:
    known = options_of_pytest.union(*(options_of(command) for command in COMMANDS))
    named = [text.split()[0] for text in inline(doc) if re.match(r"--?[a-z]", text)]
    assert [option for option in named if option not in known] == []


def make_lines(path: Path) -> list[list[str]]:
    lines = [*shell_lines(path), *inline(path)]
    made = [re.sub(r"\$\([^)]*\)", "x", line) for line in lines if line.startswith("make ")]
    return [shlex.split(line)[1:] for line in made]


def test_make_targets_and_variables_exist(doc: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = [word for line in make_lines(doc) for word in line]
    words += [text for text in inline(doc) if re.match(r"[A-Z]{2,}=", text)]
    for word in words:
        name, equals, _ = word.partition("=")
        known = rf"\b{name}\b" if equals else rf"^{name}:"
        assert re.search(known, makefile, re.MULTILINE), word


FEATURES = ROOT / "docs" / "features.md"


def feature_commands() -> list[tuple[list[str], int]]:
    """The words of each command of the features' tables, and the code it says that it ends with."""
    rows = re.findall(
        r"^\| [^|]+ \| `([^`|]+)`(?: \(ends with (\d+)\))? \|", FEATURES.read_text(), re.M
    )
    return [(shlex.split(command), int(code or 0)) for command, code in rows]


def test_each_feature_has_a_command() -> None:
    lines = FEATURES.read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.startswith("| feature ")]
    assert len(rows) == len(feature_commands()) > 30


def test_the_cases_of_the_features_run_on_a_cpu() -> None:
    runs = [words for words, _ in feature_commands() if words[0] == "run"]
    cases = [MoETestConfig.from_id(text) for words in runs for text in parse(words).case]
    assert make_plan(cases, planned_for("cpu")).refused == ()


def test_what_the_features_list_and_explain_ends_as_they_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = [pair for pair in feature_commands() if pair[0][0] in ("list", "explain")]
    assert [(words, main(words)) for words, _ in asked] == asked
    capsys.readouterr()


def test_the_tests_of_the_features_exist() -> None:
    for words in (words for words, _ in feature_commands() if words[0] == "pytest"):
        path, _, name = words[1].partition("::")
        assert f"def {name or 'test_'}" in (ROOT / path).read_text(), words


# What is listed is all there is.


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_the_readme_lists_every_command() -> None:
    cells = [row[0] for row in table(README, "| command | what it does |")]
    assert sorted(re.findall(r"(?:^|, )`(\w+)", "\n".join(cells), re.MULTILINE)) == sorted(COMMANDS)


def test_the_readme_lists_every_exit_code() -> None:
    lines = README.read_text().splitlines()
    (head,) = [line for line in lines if line.startswith("| exit code |")]
    cells = [cell.strip() for cell in head.strip("|").split("|")]
    assert cells == ["exit code", *(str(int(code)) for code in ExitCode), "128 + n"]


def test_the_readme_explains_every_verdict_below_the_first_closing_line() -> None:
    closing, _, text = README.read_text().partition("\n```\nEach case ends with one **verdict**: ")
    assert closing.splitlines()[-1].startswith("cases=")
    assert closing.count("\ncases=") == 1
    verdicts = re.sub(r"\s*\([^)]*\)", "", text.partition(".")[0])
    assert re.split(r";\s", verdicts) == list(Verdict)


def test_the_readme_explains_the_tokens_of_ids_before_it_shows_one() -> None:
    rows = table(README, "| token | meaning | token | meaning |")
    tokens = {token for row in rows for cell in row[::2] for token in named(cell)}
    known = {axis.token if axis.kind == "bool" else f"{axis.token}:" for axis in AXES.values()}
    assert tokens <= known
    required = {f"{axis.token}:" for axis in AXES.values() if axis.required}
    assert required <= tokens
    text = README.read_text()
    (first, *_) = re.finditer(r"\bm:\d", text)
    assert text.index("| token | meaning |") < first.start()
    shown = re.findall(r"(?<![\w.:-])m:\d+-[A-Za-z0-9._:-]*[A-Za-z0-9_]", text)
    words = {
        part if part in ("ep", "sp") else f"{part.split(':')[0]}:" for part in shown[0].split("-")
    }
    assert words <= tokens


def test_the_table_of_members_is_the_one_that_is_made() -> None:
    remedy = "copy the last table of docs/support.md"
    assert f"\n{support_table.families()}\n" in README.read_text(), remedy


def test_the_support_page_is_the_one_that_is_made() -> None:
    remedy = "python -m harness.plan.support_table > docs/support.md"
    assert (ROOT / "docs" / "support.md").read_text() == support_table.page(), remedy


def test_the_numerics_that_can_be_declared_are_described() -> None:
    rows = table(BACKEND, "| field of `Numerics` | meaning |")
    names = [row[0].strip("`") for row in rows]
    assert sorted(names) == sorted(field.name for field in dataclasses.fields(Numerics))


def test_the_alternatives_are_listed_in_their_order() -> None:
    rows = table(ROOT / "docs" / "bounds.md", "| first product | SiLU(gate) | SiLU(gate) * up |")
    plain = Scheme(weights="model", activations="model")
    tried = alternatives(Numerics(weight_on="output"), plain, "bf16", "cpu")
    assert [tuple(row) for row in rows] == [
        (numerics.gemm1, numerics.activated_gate, numerics.activation) for numerics in tried
    ]


def test_the_layouts_of_the_docs_are_layouts() -> None:
    rows = table(ROOT / "docs" / "your-own-layer.md", "| layout, as in an id | tokens | weights |")
    cases = [MoETestConfig.from_id(f"m:1-n:8-k:8-e:8-topk:1-experts:x-{r[0][1:-1]}") for r in rows]
    for case, (_, tokens, weights) in zip(cases, rows, strict=True):
        layout = case.layout
        assert ("spread" in weights) == (case.layer_spec.experts_of(1) != tuple(range(8)))
        assert ("split" in weights) == (layout.intermediate_of(1, 8) != range(8))
        assert ("own" in tokens) == (layout.dp_size > 1)
        assert ("split" in tokens) == layout.sequence_parallel


def test_closing_lines_are_those_of_a_run() -> None:
    keys = re.findall(r"(\w+)=", summarize([], 0, {}, 0.0).line())
    lines = re.findall(r"^cases=.*$", README.read_text() + BACKEND.read_text(), re.MULTILINE)
    assert len(lines) == 2
    assert all(re.findall(r"(\w+)=", line) == keys for line in lines)


# What is shown as code runs.


def run_here(case_id: str, folder: Path | None = None) -> RankResult:
    options = {} if folder is None else {"save_tensors": str(folder)}
    context = RankContext(
        rank=0, world_size=1, device=torch.device("cpu"), transport="gloo", options=options
    )
    return run_case(MoETestConfig.from_id(case_id), context)


def test_the_loader_loads_what_a_run_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loader, worst = fenced(ROOT / "docs" / "saved-tensors.md", "python")
    assert sum(map(bool, loader.splitlines())) == 5
    case = "m:4-n:32-k:64-e:4-topk:2-experts:torch_loop-a2a:local"
    run_here(case, tmp_path / "runs" / "one" / "tensors")
    monkeypatch.chdir(tmp_path)
    exec(loader + worst, {})
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("rank0 {")
    assert "'reference': [4, 64]" in first
    assert float(second.split()[1]) < 0.01


def test_every_saved_tensor_is_described(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run_here("m:4-n:32-k:64-e:4-topk:2-experts:torch_loop-a2a:local", tmp_path)
    (path,) = tmp_path.iterdir()
    letters = {"T": 4, "K": 64, "E": 4, "k": 2}
    dtypes = {"the case's dtype": "bfloat16"}
    rows = table(ROOT / "docs" / "saved-tensors.md", "| name | shape, dtype | contents |")
    told = {}
    for name, what, _ in rows:
        shape, _, dtype = what.partition("] ")
        sizes = [letters[letter] for letter in re.findall(r"\w", shape)]
        told[name.strip("`")] = (sizes, f"torch.{dtypes.get(dtype, dtype)}")
    saved = {name: (list(t.shape), str(t.dtype)) for name, t in load_file(path).items()}
    assert told == saved


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable folder with the package `my_kernels`, forgotten afterwards."""
    (tmp_path / "my_kernels").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "my_kernels"
    for name in [name for name in sys.modules if name.split(".")[0] == "my_kernels"]:
        del sys.modules[name]


MINE = "my_kernels.experts:MyExperts"


@pytest.mark.parametrize("right", [True, False])
def test_the_docs_backend_is_right_and_with_gate_and_up_swapped_wrong(
    package: Path, right: bool
) -> None:
    (source,) = fenced(BACKEND, "python")
    assert source.count("gate, up = ") == 1
    text = source if right else source.replace("gate, up = ", "up, gate = ")
    (package / "experts.py").write_text(text)
    found = run_here(f"m:6-n:64-k:64-e:4-topk:2-experts:{MINE}-a2a:local")
    assert found.verdict is (Verdict.PASSED if right else Verdict.FAILED)
    assert found.members["experts"] == "MyExperts"


FAILURES = ROOT / "docs" / "failures.md"


def without_measures(line: str) -> str:
    """A line of a report without what differs between machines and between versions."""
    line = re.sub(
        r"-?\d+(\.\d+)?e?[-+]?\d*(?=x)|-?\d+\.\d+|\d+(?= (%|known))|seconds=.*", "#", line
    )
    return re.sub(r"values .*?;|\d+ core", "#", line)


@pytest.mark.parametrize("ranks", [2, 1])
def test_the_failure_that_is_followed_is_reported_as_shown(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ranks: int
) -> None:
    mistake, *blocks = fenced(FAILURES, "")
    (source,) = fenced(BACKEND, "python")
    right = "        for e in range(self.num_local):\n"
    assert source.count(right) == 1
    (package / "experts.py").write_text(source.replace(right, mistake))
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    monkeypatch.chdir(package.parent)
    command, *shown = blocks[2 - ranks].splitlines()
    assert main(shlex.split(command.removeprefix("$ python -m harness "))) == ExitCode.FAILED
    printed = iter([without_measures(line) for line in capsys.readouterr().out.splitlines()])
    lost = [line for line in shown if line != "..." and without_measures(line) not in printed]
    assert lost == []  # each line is printed, in this order


def test_the_docs_backend_says_what_it_does_not_take(package: Path) -> None:
    (package / "experts.py").write_text(fenced(BACKEND, "python")[0])
    points = expand.with_experts(expand.expand(load(find(None)), "smoke"), MINE)
    needs, cpu = EXPERTS.row(MINE).needs, platform("cpu")
    refused = {p.quant for p in points if needs.refusal(p.layer_spec, cpu) is not None}
    assert refused == {p.quant for p in points} - {"none"}


def test_the_docs_declare_the_numerics_that_the_command_infers(
    package: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "experts.py").write_text(fenced(BACKEND, "python")[0])
    monkeypatch.setenv("PYTHONPATH", str(package.parent))  # of the rank
    assert main(["numerics", "--experts", MINE]) == 0
    printed = capsys.readouterr().out.splitlines()
    shown = next(block for block in fenced(BACKEND, "") if "harness numerics" in block)
    assert printed[-1] == shown.splitlines()[-1]
    values, named = (
        [words[:2] for line in lines if (words := line.split())[:1] and words[0] in PLACES]
        for lines in (printed, shown.splitlines())
    )
    assert values == named


LAYER = "my_kernels.layer:MyLayer"


@pytest.mark.parametrize("right", [True, False])
def test_the_readmes_layer_is_right_and_with_gate_and_up_swapped_wrong(
    package: Path, right: bool
) -> None:
    (source,) = fenced(README, "python")
    assert source.count("(gate, up, down)") == 1
    text = source if right else source.replace("(gate, up, down)", "(up, gate, down)")
    (package / "layer.py").write_text(text)
    found = run_here(f"m:6-n:64-k:64-e:4-topk:2-experts:own-layer:{LAYER}")
    assert found.verdict is (Verdict.PASSED if right else Verdict.FAILED), found.messages
    assert found.members == {"layer": "MyLayer"}


def test_the_readmes_layer_is_right_on_two_ranks(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "layer.py").write_text(fenced(README, "python")[0])
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    ids = [f"m:6-n:64-k:64-e:4-topk:2-experts:own-{w}-layer:{LAYER}" for w in ("tp:2", "tp:2-ep")]
    for results in parallel_launch(2, run_all, ids):
        assert [(r.verdict, r.messages) for r in results] == [(Verdict.PASSED, ())] * 2


def test_the_readmes_layer_is_short_and_need_not_declare_its_numerics(package: Path) -> None:
    source = fenced(README, "python")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    (package / "layer.py").write_text(source)
    assert LAYERS.row(LAYER).numerics == Numerics()


def shown_files(path: Path) -> dict[str, str]:
    """The python blocks of a page by the name of the file that each is said to be in."""
    named = re.findall(
        r"`my_kernels/(\w+\.py)`:\n```python\n(.*?)^```", path.read_text(), re.S | re.M
    )
    assert len(named) == len(fenced(path, "python"))
    return dict(named)


# What makes each member wrong, and the axis that asks for it.
_WRONG_MEMBERS = {
    "router.py": (".square()", "", "router:my_kernels.router:SquaredSigmoid-tp:2"),
    "activation.py": ("mish(gate) * up", "mish(up) * gate", "act:my_kernels.activation:Mish-tp:2"),
    "quant.py": ("codes=x)", "codes=2 * x)", "quant:my_kernels.quant:E5M2Weights-tp:2"),
    "all2all.py": ("partial, 0)", "2 * partial, 0)", "a2a:my_kernels.all2all:GatherAll-dp:2-ep"),
}


@pytest.mark.parametrize("right", [True, False])
def test_the_members_of_the_docs_are_right_and_with_one_line_changed_wrong(
    package: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    for name, source in shown_files(MEMBERS_PAGE).items():
        old, new, _ = _WRONG_MEMBERS.get(name, ("import torch", "import torch", ""))
        assert old in source
        (package / name).write_text(source if right else source.replace(old, new))
    monkeypatch.setenv("PYTHONPATH", str(package.parent), prepend=os.pathsep)
    start = "m:6-n:64-k:64-e:4-topk:2-experts:torch_loop"
    ids = [f"{start}-{tokens}" for _, _, tokens in _WRONG_MEMBERS.values()]
    by_rank = parallel_launch(2, run_all, ids)
    verdicts = [[result.verdict for result in of_rank] for of_rank in by_rank]
    expected = Verdict.PASSED if right else Verdict.FAILED
    assert [verdict for of_rank in verdicts for verdict in of_rank] == [expected] * 2 * len(ids)


def test_the_tests_that_the_docs_show_pass(tmp_path: Path) -> None:
    pages = (ROOT / "docs" / "your-own-tests.md", ROOT / "docs" / "pytest.md")
    sources = [source for page in pages for source in fenced(page, "python")]
    tests = sum(source.count("def test_") for source in sources)
    assert tests >= 6
    files = {f"test_shown_{number}.py": source for number, source in enumerate(sources)}
    done = pytest_runs.run(tmp_path, suite=None, files=files)
    assert f" {tests} passed" in done.text, done.text
    assert (done.code, done.left) == (0, [])


def test_what_a_layer_is_given_and_names_is_described() -> None:
    path = ROOT / "docs" / "your-own-layer.md"
    given = {n for row in table(path, "| attribute | shape | contents |") for n in named(row[0])}
    assert given == {f.name for f in dataclasses.fields(CheckpointWeights)} - {"expert"} | {
        "expert(e)"
    }
    rows = table(path, "| attribute | meaning | refused with |")
    named_here = {row[0].strip("`") for row in rows}
    assert named_here == set(LayerSubject.__annotations__) - {"row"}
    assert named(rows[0][1])[: len(TAKES)] == list(TAKES)
    assert set(named(rows[0][2])) == set(TAKES.values())


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
