"""For tests of one's own: ranks for a function, and the harness's judgement of a tensor."""
