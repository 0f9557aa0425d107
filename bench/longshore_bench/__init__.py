"""The benchmark, in the order in which to read it.

`rows` what is built, `workloads` from what, `tools` with what, `measure` what it took,
`trees` whether the outputs are equal, `report` how it is shown, `main` the whole.
"""
