"""What each command does to a run folder: resumable, one module a verb."""
