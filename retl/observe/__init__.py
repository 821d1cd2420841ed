"""Subscribers to events, such as logs."""
