"""What every network connector needs: shared connections, TLS, budgets of retries."""
