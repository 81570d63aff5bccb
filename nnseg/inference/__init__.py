"""From a model and a scan to a label map."""
