"""Commands: a configuration, one call, a printed result. No algorithms here."""
