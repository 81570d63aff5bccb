"""U-Nets, checkpoints, and models one can hand over."""
