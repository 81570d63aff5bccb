"""Containers that predict: templates of their files by platform, and the packages that they need."""
