"""``lookup``: a policy of rules that answers without a model."""
