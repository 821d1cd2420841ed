"""What sources without a cursor share: a listing compared with the manifest, and slices made of what has changed."""
