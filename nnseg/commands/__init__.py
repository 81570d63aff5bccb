"""One module a command: what it does to a run folder."""
