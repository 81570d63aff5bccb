"""What is learned from held-out cases: predictions, scores, ensembles, postprocessing, trust."""
