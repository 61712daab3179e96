"""From a trained day's model to one that only answers: smaller, measured against the one it was made of, and loadable alone."""
