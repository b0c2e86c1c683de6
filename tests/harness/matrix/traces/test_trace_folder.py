"""Data sets of recorded workloads: read as data, and each wrong field one clear line."""

import json

import pytest

from harness.errors import ConfigError, UsageError
from harness.matrix.traces.trace_folder import read_folder
from tests.harness import trace_sets
from tests.harness.trace_sets import DEEPSEEK, RENORM, ROUTED, K, T, line, write


def test_workloads_of_moe_layers_are_read_and_their_code_is_not_run(tmp_path):
    folder = read_folder(write(tmp_path, RENORM, DEEPSEEK, ROUTED))
    assert [w.definition.name for w in folder.workloads] == [RENORM, DEEPSEEK, ROUTED]
    assert folder.others == 1
    assert folder.workloads[1].scalar("routed_scaling_factor") == 2.5
    assert folder.workloads[0].sizes["seq_len"] == T
    assert folder.workloads[0].stored("w2") is None


def test_the_same_line_twice_is_one_workload_and_another_uuid_is_another(tmp_path):
    lines = [line(RENORM), line(RENORM), line(RENORM, "a-2")]
    digests = {w.line.digest for w in read_folder(write(tmp_path, lines=lines)).workloads}
    assert len(digests) == 2
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in digests)


def changed(path, value, name=RENORM):
    """Return a line with one value changed; value ...: without it."""
    data = line(name)
    at = data
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return data


X = ("workload", "inputs", "hidden_states")
WRONG_LINES = [
    ("{", "is not JSON: "),
    (changed(("definition",), "moe_renorm"), "no definition is called 'moe_renorm', did you mean"),
    (changed(("definition",), 3), "definition: must be a word, not 3"),
    (changed(("workload", "uuid"), ""), "workload.uuid: must not be empty"),
    (changed(("workload", "axes"), {}), "axes lacks 'seq_len', which definition"),
    (changed(("workload", "axes", "seq_len"), -1), "workload.axes.seq_len: must be at least 0"),
    (changed(("workload", "axes", "more"), 1), "axes has 'more', which definition"),
    (changed(("workload", "inputs", "y"), {"type": "random"}), "inputs has 'y', which definition"),
    (changed(X, ...), "inputs.hidden_states: is missing; give its type, such as random"),
    (changed((*X, "type"), "pickle"), "does not match any of the expected tags"),
    (changed(X, {"type": "scalar", "value": 1}), "is a tensor in the definition, but of type"),
    (changed((*X, "path"), "../outside.safetensors"), "leads out of the data set"),
    (changed((*X, "path"), "/etc/passwd"), "leads out of the data set"),
    (changed((*X, "path"), "blob/none.safetensors"), "cannot read '"),
    (changed((*X, "path"), "definitions/moe/gemm.json"), "is not a safetensors file: it does not"),
    (changed((*X, "tensor_key"), "y"), "has no tensor 'y' (it has: "),
    (
        changed(("workload", "axes", "seq_len"), T + 1),
        f"holds BF16 [{T}, {K}], and the definition says BF16 [{T + 1}, {K}] (seq_len, hidden_",
    ),
    (
        changed((*X, "tensor_key"), "routing_logits"),
        f"holds BF16 [{T}, 8], and the definition says BF16 [{T}, {K}]",
    ),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG_LINES, ids=[text for _, text in WRONG_LINES])
def test_each_wrong_line_is_named_with_file_and_number(tmp_path, wrong, text):
    (tmp_path / "outside.safetensors").write_bytes(b"")
    root = write(tmp_path / "set", lines=[line(ROUTED), wrong])
    with pytest.raises(ConfigError) as raised:
        read_folder(root)
    assert all("all.jsonl:2: " in error and "\n" not in error for error in raised.value.errors)
    assert any(text in error for error in raised.value.errors), raised.value.errors


def test_all_errors_are_reported_at_once(tmp_path):
    root = write(tmp_path, lines=[changed(X, ...), "{", line(RENORM)])
    with pytest.raises(ConfigError) as raised:
        read_folder(root)
    assert len(raised.value.errors) == 2


def test_a_link_out_of_the_data_set_is_refused(tmp_path):
    root = write(tmp_path / "set", RENORM)
    file = root / f"blob/{RENORM}.safetensors"
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ConfigError, match="leads out of the data set; keep its files inside"):
        read_folder(root)


def wrong_definition(**changes):
    return trace_sets.definitions()[RENORM] | changes


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (wrong_definition(name=""), "name: must not be empty"),
        (wrong_definition(axes={}), "hidden_states has the axis 'seq_len', which `axes` does not"),
        (wrong_definition(axes={"seq_len": {"type": "any"}}), "axes.seq_len: "),
        (wrong_definition(inputs={"x": {"shape": None, "dtype": "f8"}}), "inputs.x.dtype: must be"),
        (wrong_definition(name="gemm"), "a second definition is called 'gemm'"),
    ],
)
def test_each_wrong_definition_is_named_with_its_file(tmp_path, wrong, text):
    root = write(tmp_path, ROUTED, changed={RENORM: wrong})
    with pytest.raises(ConfigError) as raised:
        read_folder(root)
    assert any(f"{RENORM}.json: " in error and text in error for error in raised.value.errors)


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match="it has no folder 'definitions'; give the folder"):
        read_folder(tmp_path)


def test_what_flashinfer_bench_reads_is_read_the_same(tmp_path):
    """With the released package where it is installed; it also accepts what tests write."""
    data = pytest.importorskip("flashinfer_bench.data", reason="not installed: the extra subjects")
    root = write(tmp_path, RENORM, DEEPSEEK, ROUTED)
    theirs = data.TraceSet.from_path(str(root))
    assert {name: len(traces) for name, traces in theirs.workloads.items()} == {
        RENORM: 1,
        DEEPSEEK: 1,
        ROUTED: 1,
    }
    for workload in read_folder(root).workloads:
        (trace,) = theirs.workloads[workload.definition.name]
        ours = workload.line.workload.model_dump()
        assert json.loads(trace.workload.model_dump_json()) == ours
