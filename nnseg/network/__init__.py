"""Networks, checkpoints, and models in one file."""
