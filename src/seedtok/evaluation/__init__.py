"""Tables 1 to 3 of the paper: a data set and models in, predictions and scores out."""
