"""A model over many scans: folders predicted by worker processes, images in memory by a model that stays loaded."""
