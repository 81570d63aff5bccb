"""Files: disk in, nouns out; written aside, then renamed."""
