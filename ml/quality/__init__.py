"""Data quality: declared expectations of a day's data, and their checks. Rows are never changed."""
