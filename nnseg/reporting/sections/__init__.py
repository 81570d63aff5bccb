"""The sections of a run's page: each module makes of a `Story` what one template shows, or None where there is nothing to tell."""
