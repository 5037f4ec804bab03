"""Sequential analysis: figures and differences that may be looked at after every episode."""
