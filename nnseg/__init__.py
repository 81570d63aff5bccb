"""nnseg: one command from a folder of labelled medical scans to a segmentation model."""
