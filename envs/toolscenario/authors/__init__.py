"""Who writes scenarios: templates without a model, and a language model."""
