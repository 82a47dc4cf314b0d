"""What editors share that train something before their first edit: cases, the loop, and what is kept of it.

`cases`: the edits of a training split with what is asked about each, their frozen part run once.  `loop`: a training that can be
killed at any moment and goes on to the same bits.  `artefact`: the folder it ends in.  `losses`: what most of them minimise.
"""
