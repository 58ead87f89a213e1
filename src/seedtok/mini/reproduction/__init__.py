"""Everything of the mini size from nothing: `seedtok reproduce mini`."""
