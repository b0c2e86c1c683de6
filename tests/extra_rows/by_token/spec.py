"""The row of an experts backend that goes token by token. No torch."""

from moe.spec import ANY, Needs, Row

BY_TOKEN = Row(
    name="by_token",
    target="by_token.member:ByToken",
    needs=Needs(dtypes=ANY, activation_functions=ANY),
    deterministic=True,
)
