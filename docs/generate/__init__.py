"""Pages of the site, or parts of them, that are made from the code or from files outside docs/."""
