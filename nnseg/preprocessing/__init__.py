"""From a scan to the network's grid, and back."""
