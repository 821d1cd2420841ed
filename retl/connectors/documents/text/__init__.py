"""The text of documents, read in a process of its own: a file of strangers may harm that alone."""
