"""The row of an all2all backend that sums everywhere what it has gathered. No torch."""

from moe.spec import ANY, MemberSpec, Needs

GATHER_AND_SUM = MemberSpec(
    name="gather_and_sum",
    target="gather_and_sum.member:GatherAndSum",
    needs=Needs(dtypes=ANY),
    deterministic=True,
)
