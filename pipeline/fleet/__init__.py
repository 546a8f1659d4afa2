"""Many drives: in comes a list of drives, out go results of all that can be had and a ledger that says what became of
each. Built from the stages of one drive (pipeline.reconstruct), which know nothing of it.
"""
