"""What a run shows to people: summary, progress, report, metrics."""
