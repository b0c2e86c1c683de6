"""Headers of safetensors files, read without the package."""

import pytest
import torch
from safetensors.torch import save_file

from harness.errors import UsageError
from harness.matrix.traces.tensor_header import StoredTensor, read_header


def test_keys_dtypes_and_shapes_are_those_that_the_package_wrote(tmp_path):
    given = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.tensor(1)}
    save_file(given, tmp_path / "t", metadata={"made": "by a test"})
    assert read_header(tmp_path / "t") == {
        "a": StoredTensor(dtype="BF16", shape=(2, 3)),
        "b": StoredTensor(dtype="I64", shape=()),
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 16,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{",
        (8).to_bytes(8, "little") + b'{"a": 1}',
        (31).to_bytes(8, "little") + b'{"a":{"dtype":1,"shape":[1, 2]}}',
        (28).to_bytes(8, "little") + b'{"a":{"dtype":"I8","shape":1}}',
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(UsageError, match=r"file' is not a safetensors file: it does not begin"):
        read_header(tmp_path / "file")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read '.*none': No such file"):
        read_header(tmp_path / "none")
