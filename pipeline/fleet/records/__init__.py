"""What a run records and cleans up: ledger, failure records, remains of killed runs."""
