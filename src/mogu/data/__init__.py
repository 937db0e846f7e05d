"""Records, their readers and the building of training pairs from plain instructions."""
