"""Tasks that can be asked and checked: worlds, knowledge, instructions, question files, the answer check, rewards."""
