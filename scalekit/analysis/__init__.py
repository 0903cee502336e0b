"""What a fitted law says: allocation, extrapolation, comparison, diagnosis."""
