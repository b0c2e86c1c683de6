"""What a user is told of a name that no row has, and of a member that refuses."""

import pytest

from moe.errors import MoEError, RefusedError, UnknownMemberError
from moe.spec import Reason


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "trito",
            "no experts backend is called 'trito', did you mean 'triton'? (known: loop, triton)",
        ),
        (
            "my_pkg.mod.Mine",
            "no experts backend is called 'my_pkg.mod.Mine'; a class is named with a colon, as "
            "'my_pkg.mod:Mine' (known: loop, triton)",
        ),
        ("xyz", "no experts backend is called 'xyz' (known: loop, triton)"),
    ],
)
def test_an_unknown_name_gets_the_nearest_way_out(name, text):
    error = UnknownMemberError("experts", name, ["triton", "loop"])
    assert str(error) == text
    assert isinstance(error, MoEError)


def test_a_refusal_carries_its_reason():
    reason = Reason(code="too_many_ranks", text="serves at most 1 rank(s), not 2")
    error = RefusedError("local", reason)
    assert error.reason is reason
    assert str(error) == (
        "local refuses this layer: too_many_ranks: serves at most 1 rank(s), not 2"
    )
    assert isinstance(error, MoEError)
