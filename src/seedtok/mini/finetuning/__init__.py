"""The mini weights made to know pictures of one's own: three short runs, one after the other."""
