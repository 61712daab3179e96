"""Data quality: what a day's data should look like, declared as data, and checks of it. Rows are never changed."""
