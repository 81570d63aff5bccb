"""To and from other tools."""
