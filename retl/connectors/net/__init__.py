"""Tools that network connectors share: connection pools, TLS, retry budgets."""
