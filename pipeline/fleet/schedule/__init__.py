"""Which drive runs when and where."""
