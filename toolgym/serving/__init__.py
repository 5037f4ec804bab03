"""Environments offered to programs that play them from outside, one episode a client."""
