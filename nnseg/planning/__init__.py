"""From a dataset to its fingerprint, and to a plan."""
