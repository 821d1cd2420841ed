"""What SQL systems share: names and literals, SELECTs, cutting a window into slices, DDL, canonical text."""
