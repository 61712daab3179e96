"""Models over any collection of embedding tables: `forward(dense [B, I], sparse KJT) -> logits [B]`."""
