"""A model over many scans: folders predicted by worker processes."""
