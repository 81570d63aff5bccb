"""From scores and histories to pictures and pages."""
