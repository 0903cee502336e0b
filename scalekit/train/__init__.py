"""One run: the loop and its parts."""
