"""Runs over many drives. In: a place with drives, or a drive list. Out: results, and a ledger with every drive's state.

Each drive passes through `pipeline.prepare`, `forward` and `finish`, which import nothing from here. Start at `run.py`;
README.md describes a run.
"""
