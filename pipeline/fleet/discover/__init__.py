"""Which drives there are."""
