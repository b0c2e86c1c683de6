"""The tokens of an id, each with its own error; test_case.py has whole ids."""

from harness.matrix.axis import Axis
from harness.matrix.case_id import parse_all

AXES = {
    "m": Axis(token="m", description="", name="rows", kind="int"),
    "ep": Axis(token="ep", description="", name="spread", kind="bool"),
    "act": Axis(token="act", description="", name="activation", kind="str"),
}


def test_values_come_by_the_names_of_their_fields():
    values, errors = parse_all(["m:3", "no_ep", "act:pkg.mod:Class"], AXES)
    assert values == {"rows": 3, "spread": False, "activation": "pkg.mod:Class"}
    assert errors == []


def test_every_wrong_token_has_its_error():
    values, errors = parse_all(["m:03", "m:1", "m:2", "ep:1", "act", "no_act", "ac:x"], AXES)
    assert values == {"rows": 2}
    assert errors == [
        "token 'm:03': '03' is not a whole number",
        "token 'm:2': rows is given twice",
        "token 'ep:1': write 'ep' or 'no_ep'",
        "token 'act': write 'act:VALUE'",
        "token 'no_act': write 'act:VALUE'",
        "token 'ac:x': no field is called 'ac', did you mean 'act'?",
    ]
