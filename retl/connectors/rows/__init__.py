"""What every connector needs of rows in Arrow: canonical text, CSV, rejects, keys."""
