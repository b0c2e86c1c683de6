"""Rows as texts that two processes can compare, and which names are rows."""

from harness.plan import row_listing


def test_equal_values_have_equal_texts_whatever_their_order():
    one, two = ({"a": frozenset(text), "b": (1, None)} for text in ("xyz", "zyx"))
    assert row_listing.plain(one) == row_listing.plain(dict(reversed(two.items())))
    assert row_listing.plain(one) != row_listing.plain({**one, "b": (1, 2)})


def test_tables_rows_and_tuples_of_rows_are_rows_and_nothing_else_is():
    rows = ["moe.experts:EXPERTS", "moe.experts.kernel_rows:ROWS"]
    listing = row_listing.listing(
        [*rows, "moe.layers.layer_row:TAKES", "moe.spec:ANY", "moe.experts:gone"]
    )
    assert listing["are_rows"] == [True, True, False, False, None]
    assert listing["rows"]["experts"].keys() >= {"triton", "torch_loop"}
