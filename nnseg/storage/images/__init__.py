"""Image files: reading, writing, one module a format."""
