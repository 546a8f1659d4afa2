"""What a run shows: summary, progress, report, metrics."""
