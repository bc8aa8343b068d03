"""What a trained model is asked to do, and how well it does it."""
