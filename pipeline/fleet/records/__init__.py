"""What a run writes down: ledger, failure records, what is cleared up."""
