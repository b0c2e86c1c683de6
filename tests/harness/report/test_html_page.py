"""The HTML report: its data, and in a browser the heat map, filter, order and pages of cases."""

import dataclasses
import json
import re

import pytest

from harness.record.diagnosis import CallDiagnosis, Diagnosis
from harness.record.proof import Outcome, Proof
from harness.record.result import Attempt, CaseResult, Verdict
from harness.report import html_page, png
from harness.report.tables import view
from tests.harness.report.browser import needs_chromium, opened
from tests.harness.report.stored_run import BAD, CASES, PLAIN, REFUSED, RESULTS

EVIL = "</script><script>document.title='x'</script><!--<img src=x onerror=alert(1)>&lt;@DATA@"


def data_of(text):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(data)


@pytest.fixture
def run(folder):
    """The stored run: its failed case has a picture and an error text that tries to break out."""
    call = CallDiagnosis(call=1, fault="no diagnosis", picture="tp.png")
    bad = dataclasses.replace(
        BAD,
        messages=(f"rank 0: {EVIL}",),
        diagnoses=(Diagnosis(rank=1, failed=(1,), of=2, calls=(call,)),),
        earlier=(Attempt(verdict=Verdict.CRASHED, seconds=1.25, reason=EVIL),),
        phases={"layer": 1.0, "reference": 3.0},
    )
    proofs = (Proof(name="zeros", outcome=Outcome.CAUGHT),)
    passed = dataclasses.replace(RESULTS[0], battery=proofs, phases={"layer": 2.0})
    png.write_png(folder.log_dir / "tp.png", [b"\0\1"] * 2, png.palette(png.MAGENTA), "x")
    stored = view(folder)
    results = (passed, bad, *stored.results[2:])
    return dataclasses.replace(stored, results=results)


@pytest.fixture
def page(run, folder, tmp_path):
    path = tmp_path / "report.html"
    html_page.write(run, folder.path, path)
    return path


def test_the_data_hold_every_case_its_text_and_its_place_on_each_axis(run, folder):
    data = html_page.page_data(run, folder.path)
    assert [case["id"] for case in data["cases"]] == CASES
    axes = {axis["name"]: axis["values"] for axis in data["axes"]}
    assert list(axes)[:2] == ["member", "layout"]
    assert axes["member"] == ["torch_loop"]
    assert axes["layout"] == ["dp2 tp2 ep sp", "one rank", "tp2"]
    assert axes["tp_size"] == ["1", "2"]
    assert "num_experts" not in axes  # all cases have the same
    names = list(axes)
    bad = data["cases"][1]
    assert {name: axes[name][bad["at"][i]] for i, name in enumerate(names)} == {
        "member": "torch_loop",
        "layout": "tp2",
        "dp_size": "1",
        "tp_size": "2",
        "use_ep": "False",
        "sequence_parallel": "False",
        "quant": "none",
        "seed": "0",
    }
    assert bad["earlier"] == [["crashed", 1.25, EVIL]]
    assert bad["lines"][-1] == f"repeat: python -m harness run --case {CASES[1]}"
    assert data["phases"] == {"layer": 3.0, "reference": 3.0}
    assert data["proofs"] == [["zeros", 1, 0, 0]]
    assert data["refused"] == [
        {"code": REFUSED[0][1], "count": 2, "examples": [[r[0], r[2]] for r in REFUSED]}
    ]
    assert data["counts"]["hung"] == 1


def test_nothing_of_a_run_becomes_markup(run, folder):
    text = html_page.page(run, folder.path)
    assert (
        data_of(text)["cases"][1]["lines"][0]
        == html_page.page_data(run, folder.path)["cases"][1]["lines"][0]
    )
    assert EVIL not in text
    assert text.count("</script>") == text.count("<script") == 2
    assert "http:" not in text
    assert "https:" not in text


def test_pictures_are_of_the_runs_logs_only_and_there_is_a_limit(run, folder, monkeypatch):
    (picture,) = html_page.page_data(run, folder.path)["cases"][1]["pictures"]
    assert picture["data"].startswith("data:image/png;base64,iVBOR")
    assert picture["caption"].startswith("rank 1, second call: errors")
    monkeypatch.setattr(html_page, "MAX_PICTURE_BYTES", 10)
    assert html_page.page_data(run, folder.path)["cases"][1]["pictures"] == []
    monkeypatch.undo()
    (folder.path / "run.png").write_bytes((folder.log_dir / "tp.png").read_bytes())
    (folder.log_dir / "log.png").write_text("no picture")
    for name in ("../run.png", "log.png", "absent.png", "a\0b.png"):
        call = CallDiagnosis(call=0, fault="x", picture=name)
        diagnosis = Diagnosis(rank=0, failed=(0,), of=2, calls=(call,))
        result = dataclasses.replace(BAD, diagnoses=(diagnosis,))
        elsewhere = dataclasses.replace(run, results=(result,))
        assert html_page.page_data(elsewhere, folder.path)["cases"][0]["pictures"] == []


def test_a_run_without_cases_has_a_page(run, folder):
    empty = dataclasses.replace(run, results=())
    assert data_of(html_page.page(empty, folder.path))["cases"] == []


@needs_chromium
def test_the_page_opens_without_errors_and_its_heat_map_is_right(page):
    shown = opened(
        page,
        """
        show.title = document.title;
        show.first = at("map").rows[0].cells[0].textContent;
        at("rows").value = data.axes.findIndex((axis) => axis.name === "layout");
        at("columns").value = data.axes.findIndex((axis) => axis.name === "quant");
        drawMap();
        show.map = [...at("map").rows].map((r) => [...r.cells].map((c) => c.textContent));
        show.titles = [...at("map").querySelectorAll("td[title]")].map((c) => c.title);
        show.refused = at("refused").textContent;
        """,
    )
    assert shown["console"] == []
    assert shown["title"] == "smoke on cpu, run"
    assert shown["first"] == "quant \\ layout"  # there is one member
    assert shown["map"] == [
        ["layout \\ quant", "fp8_block", "none"],
        ["dp2 tp2 ep sp", "", "1 of 1"],
        ["one rank", "1 of 1", "2"],
        ["tp2", "", "1 of 1"],
    ]
    assert shown["titles"] == ["1 hung", "1 flaky", "1 passed, 1 not_run", "1 failed"]
    assert shown["refused"].startswith("2 block_straddles_shard")


@needs_chromium
def test_the_filter_the_order_and_a_cell_choose_cases(page):
    shown = opened(
        page,
        """
        const ids = () => [...at("cases").rows].slice(1).map((r) => r.cells[2].textContent);
        const filter = (text) => {
          at("filter").value = text;
          at("filter").dispatchEvent(new Event("input"));
          return ids();
        };
        show.all = ids();
        show.word = filter("FLAKY");
        show.words = filter("tp:2 ep");
        show.axis = filter('layout="one rank" seed=0');
        show.none = filter("flaky tp:2");
        show.count = at("shown").textContent;
        filter("");
        at("order").value = "slowest";
        at("order").dispatchEvent(new Event("change"));
        show.slowest = ids()[0];
        at("rows").value = 1;
        at("columns").value = 0;
        drawMap();
        at("map").rows[2].cells[1].click();
        show.clicked = [at("filter").value, ids().sort()];
        """,
    )
    assert shown["console"] == []
    assert shown["all"] == [*CASES[1:4], CASES[0], CASES[4]]  # failures first
    assert shown["word"] == [CASES[3]]
    assert shown["words"] == [CASES[2]]
    assert sorted(shown["axis"]) == sorted([CASES[0], CASES[3]])
    assert (shown["none"], shown["count"]) == ([], "0 of 5 cases")
    assert shown["slowest"] == CASES[2]
    text, ids = shown["clicked"]
    assert text == 'layout="one rank" member=torch_loop'
    assert ids == sorted([CASES[0], CASES[3], CASES[4]])


@needs_chromium
def test_a_failure_has_its_own_address_with_text_picture_and_attempts(page):
    script = """
        show.hidden = at("case").hidden;
        show.text = at("case").textContent;
        show.images = [...document.images].map((i) => i.src.slice(0, 22));
        show.scripts = document.scripts.length;
    """
    shown = opened(page, script, address=CASES[1])
    assert shown["console"] == []
    assert shown["hidden"] is False
    assert EVIL.split("<img")[0] in shown["text"]
    assert "crashed attempt 1, 1.25 s: </script>" in shown["text"]
    assert shown["images"] == ["data:image/png;base64,"]
    assert shown["scripts"] == 3  # the data, the page's script, and the one of this test
    assert opened(page, script, address="absent")["hidden"] is True


# An id of which a line of the page is too short.
LONG = (
    f"{PLAIN}-a2a:all_to_all_batched-router:topk_softmax-act:swiglu_clamped-padding:middle-"
    "latent:64-eplb:global-redundant:2-logits:negative-logits_dtype:f32-call:two_batches"
)


@needs_chromium
def test_five_thousand_cases_open_with_few_rows_and_more_on_request(run, folder, tmp_path):
    verdicts = (Verdict.FAILED, Verdict.PASSED, Verdict.PASSED)
    results = tuple(
        CaseResult(
            case_id=f"{PLAIN}-seed:{i}" if i else LONG,
            verdict=verdicts[i % 3],
            messages=("rank 0: 3 of 32 rows are wrong",) * (i % 3 == 0),
            phases={"inputs": 0.01, "layer": 0.02, "reference": 0.03},
        )
        for i in range(5000)
    )
    path = tmp_path / "report.html"
    html_page.write(dataclasses.replace(run, results=results), folder.path, path)
    shown = opened(
        path,
        """
        show.rows = at("cases").rows.length;
        show.more = at("more").textContent;
        show.right = at("cases").rows[1].cells[3].getBoundingClientRect().right;
        show.width = window.innerWidth;
        at("more").click();
        at("more").click();
        show.last = at("more").textContent;
        """,
    )
    assert shown["console"] == []
    assert (shown["rows"], shown["more"]) == (201, "show 2000 of the other 4800")
    assert shown["last"] == "show the other 800"
    assert shown["right"] <= shown["width"], "messages are seen without scrolling"
    print(f"{shown['ready']:.0f} ms, {path.stat().st_size} bytes")


def test_a_passed_case_says_which_other_seed_was_judged(run, folder):
    passed = dataclasses.replace(run.results[0], seed=3)
    changed = dataclasses.replace(run, results=(passed, *run.results[1:]))
    cases = html_page.page_data(changed, folder.path)["cases"]
    assert cases[0]["headline"] == "judged with seed 3"
    assert html_page.page_data(run, folder.path)["cases"][0]["headline"] == ""
