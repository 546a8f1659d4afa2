"""Many drives. In: an input with drives or a list of them. Out: results, and a ledger that says what became of each.

Each drive passes through the stages of `pipeline.reconstruct`, which import nothing from here. Start at `run.py`;
README.md beside it describes a run.
"""
