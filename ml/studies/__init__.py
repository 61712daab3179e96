"""Experiments on public logs, whose results the documentation cites. They train through `ml.training`."""
