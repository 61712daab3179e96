"""Online training: a model learns within the day, slice by slice, and a serving model receives what it learned."""
