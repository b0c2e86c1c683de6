"""The row of an experts backend that goes token by token. No torch."""

from moe.spec import ANY, MemberSpec, Needs

BY_TOKEN = MemberSpec(
    name="by_token",
    target="by_token.member:ByToken",
    needs=Needs(dtypes=ANY, activation_functions=ANY),
    deterministic=True,
)
