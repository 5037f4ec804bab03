"""Self-training: practise, filter, train, measure, again."""
