"""nnU-Net v2: its raw datasets, plans, trained models, checkpoints and summaries."""
