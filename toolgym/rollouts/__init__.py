"""Rollouts: a policy plays, and each episode is recorded in a run."""
