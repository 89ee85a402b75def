"""Tasks that can be asked and checked: the reasoning world, question files, the answer check, rewards."""
