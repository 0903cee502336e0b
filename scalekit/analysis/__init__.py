"""What a fitted law says: answers, decisions and forecasts, and what there is to doubt in them."""
