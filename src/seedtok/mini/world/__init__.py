"""The mini world: scenes, captions of them and questions about them."""
