"""The truth: slow, plain, float32, and sharing no code with what it judges.

It imports `moe.spec`, `moe.types`, and of activations and routers the table and the `truth` files.
`layer.BaselineSiluAndMul` is the whole layer, `formats` its number formats, `routing` its router.
"""
