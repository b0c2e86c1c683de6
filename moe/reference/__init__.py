"""The reference: slow, plain, float32, and without code shared with what it judges.

It imports `moe.spec`, `moe.types`, and the tables and `truth` files of activations and routers.
`layer.BaselineSiluAndMul` is the complete layer, `formats` its number formats, `routing` its
router.
"""
