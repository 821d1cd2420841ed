"""What must hold when processes die, stop, are cancelled or run out of something."""
