"""A test area: the words of vLLM's generator, and ROCm targets as twins."""

from harness.plan.pipelines.vllm import test_area as area
from tests.harness.plan.pipelines.requests import request

STEP = {
    *("label", "key", "device", "num_devices", "optional", "soft_fail", "parallelism"),
    *("timeout_in_minutes", "source_file_dependencies", "commands", "retry", "mirror"),
}
MIRROR = {"label", "device", "num_devices", "timeout_in_minutes", "commands"}


def test_words_and_twins():
    written = area(request("h100:2,mi355:2,cpu", shards=3, optional=frozenset({"h100"})))
    assert set(written) == {"group", "steps"}
    h100, cpu = written["steps"]
    assert set(h100) <= STEP
    assert (h100["device"], h100["num_devices"], h100["optional"]) == ("h100", 2, True)
    assert set(h100["mirror"]["amd"]) == MIRROR
    assert h100["mirror"]["amd"]["device"] == "mi355_2"
    assert h100["parallelism"] == 3
    assert "$$BUILDKITE_PARALLEL_JOB" in h100["commands"][1]
    assert cpu["device"] == "cpu"
    assert "num_devices" not in cpu


def test_a_rocm_target_without_an_equal_is_a_step_whose_device_names_its_number():
    (alone,) = area(request("mi355:4", soft=frozenset({"mi355"})))["steps"]
    assert (alone["device"], alone["num_devices"], alone["soft_fail"]) == ("mi355_4", 4, True)
