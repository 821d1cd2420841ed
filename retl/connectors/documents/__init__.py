"""Documents as rows: their text, and chunks of it."""
