"""Subscribers to events: logs, and whatever else only listens."""
