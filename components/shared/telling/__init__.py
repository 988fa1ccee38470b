"""Output for people: errors, progress, pages."""
