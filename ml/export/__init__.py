"""Export of trained models for inference: quantised, measured against the trained model, and stored as bundles."""
