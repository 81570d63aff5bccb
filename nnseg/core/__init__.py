"""Nouns that stages hand to one another: immutable, typed, no torch."""
