"""The row of an all2all backend that sums everywhere what it has gathered. No torch."""

from moe.spec import ANY, Needs, Row

GATHER_AND_SUM = Row(
    name="gather_and_sum",
    target="gather_and_sum.member:GatherAndSum",
    needs=Needs(dtypes=ANY),
    deterministic=True,
)
