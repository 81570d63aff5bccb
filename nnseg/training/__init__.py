"""From preprocessed cases to weights."""
