"""What `hmrbench train` is made of: recipes, examples, losses, optimisation, checkpoints, logs."""
