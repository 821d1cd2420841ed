"""Files as a source: where they lie (``stores``), what they hold (``formats``), and which of them are in the target."""
