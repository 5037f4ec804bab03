"""What rewards and figures share: rubrics, answers, and what a call solves."""
