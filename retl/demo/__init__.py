"""The demo: a warehouse, an application's database, and three scans while rows change in the warehouse."""
