"""Training: one step, a pass, a day, and a replay of days."""
