"""Submissions to challenges: rules as TOML files, the files that they ask for, and a check of these before they are packed."""
