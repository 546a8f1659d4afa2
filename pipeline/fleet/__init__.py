"""Many drives. In: a place with drives, or a list of drives. Out: results, and a ledger with the fate of every drive.

Each drive passes through `pipeline.prepare`, `forward` and `finish`, which import nothing from here. Start at `run.py`;
README.md beside it describes a run.
"""
