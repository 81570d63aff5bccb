"""Datasets on disk: layouts, descriptions, cases, groups."""
