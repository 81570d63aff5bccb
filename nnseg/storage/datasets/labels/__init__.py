"""What the label maps of a dataset mean: names, values and regions of labels, and how each file says them."""
