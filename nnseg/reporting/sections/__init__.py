"""Sections of the report: what is computed of its content for one template each."""
