"""Exports trained models for inference: smaller, measured against the trained model, and loadable alone."""
