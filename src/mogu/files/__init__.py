"""Files that appear whole or not at all, JSON files, and text files read line by line. Knows nothing of MoGU."""
