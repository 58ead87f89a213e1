"""Conversion of published checkpoints to this package's format and back; every tensor is used or listed as left out."""
