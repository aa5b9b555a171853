"""Active learning: explore, choose, label, learn, and again until the model is certain."""
