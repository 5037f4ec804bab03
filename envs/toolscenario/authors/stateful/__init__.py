"""The author of worlds: domains as data, drawn by seed, rendered to Python sources."""
