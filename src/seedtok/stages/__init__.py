"""What the training engine trains: stages I, II, IIIa, IIIb and the baselines' own."""
