"""City drives to poses and points on Ray: storage, frames, forward, alignment, Parquet."""
