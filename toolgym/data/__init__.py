"""From recordings to training data: filter, pair, cut and export."""
