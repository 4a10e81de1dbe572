"""Whether boxes and joints lie where their images are, and what they look like where not."""
