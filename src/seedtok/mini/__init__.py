"""The embedded default: a small world of drawn scenes, and everything trained on it."""
