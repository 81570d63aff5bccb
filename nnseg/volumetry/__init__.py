"""Volumes of predicted scans: numbers, tables, percentiles among a population, pages."""
