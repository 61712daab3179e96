"""How far advice looks back."""

WINDOW = 7
"""Most days before a day whose profiles its advice is made from."""
