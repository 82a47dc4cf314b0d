"""What editors share that are trained before their first edit: cases, the training loop, and the stored result.

`cases`: the edits of a training split with their probes, whose frozen part is run once.  `loop`: a training that can be
interrupted at any moment and continues to the same bits.  `artefact`: the folder with the result.  `losses`: common losses.
"""
